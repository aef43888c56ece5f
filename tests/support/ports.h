/*
 * A TCP port of 127.0.0.1 for a server that a test starts. Never one of those that the kernel gives to outgoing connections: between
 * the choice and the server's bind somebody else's connection would take it now and then. tests/support/ports.py is the same for
 * Python.
 */
#ifndef MS_TESTS_SUPPORT_PORTS_H
#define MS_TESTS_SUPPORT_PORTS_H

int ms_test_port(void); /* ends the program where none can be had */

#endif
