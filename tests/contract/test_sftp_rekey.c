/*
 * A server that starts a new key exchange every few hundred kilobytes. A program of its own: libssh2 1.10 forgets the server's old key (51 bytes) at
 * each, and what it leaks by itself is not looked for here; what the driver leaks is, and the other programs look for both.
 */
#include "contract/sftp_rig.h"

const char *__lsan_default_suppressions(void), *__lsan_default_options(void);
const char *__lsan_default_suppressions(void) { return "leak:libssh2.so\n"; }
const char *__lsan_default_options(void) { return "print_suppressions=0"; } /* a report would be a failure */

TestSuite(sftp_rekey, .init = setup, .fini = teardown, .timeout = 120);

Test(sftp_rekey, contract) {
	if (!start("contract/test_sftp_rekey", false, "RekeyLimit 256K"))
		return;
	run_contract("", "roundtrip", 0, 0);
	run_contract("", "large", 0, 6);
}
