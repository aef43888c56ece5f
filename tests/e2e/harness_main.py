"""Runs the named suites (all without a name) and reports each case; skipped ones with their reasons, also into $MS_SKIP_LOG.

MS_E2E_CASES=text picks the cases with it in their names, MS_E2E_SHARD=i/n the i-th of n parts of what is left.
"""
import glob
import importlib
import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True


class Result(unittest.TextTestResult):
    def getDescription(self, test):
        return test.id()

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def addSuccess(self, test):
        unittest.TestResult.addSuccess(self, test)
        self.stream.writeln(f"ok ({time.monotonic() - self.began:.1f} s)")


def cases(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from cases(t)
        else:
            yield t


def main():
    names = [os.path.splitext(os.path.basename(n))[0] for n in sys.argv[1:]]
    names = names or sorted(os.path.basename(p)[:-3] for p in glob.glob(os.path.join(HERE, "test_*.py")))
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(n)) for n in names)
    wanted = os.environ.get("MS_E2E_CASES", "")
    chosen = [t for t in cases(suite) if wanted in t.id()]
    shard, shards = (int(n) for n in os.environ.get("MS_E2E_SHARD", "1/1").split("/"))
    suite = unittest.TestSuite(chosen[shard - 1::shards])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Result).run(suite)
    if os.environ.get("MS_SKIP_LOG"):
        with open(os.environ["MS_SKIP_LOG"], "a") as f:
            for test, why in result.skipped:
                f.write(f"e2e {test.id()}: {why}\n")
    if os.environ.get("MS_CASE_LOG"):
        failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
        with open(os.environ["MS_CASE_LOG"], "a") as f:
            f.write(f"{result.testsRun - failed - len(result.skipped)} {failed} {len(result.skipped)}\n")
    if not chosen:
        print("no case has this name", file=sys.stderr)
        return 1
    if not result.wasSuccessful():
        return 1
    return 77 if len(result.skipped) == result.testsRun else 0


sys.exit(main())
