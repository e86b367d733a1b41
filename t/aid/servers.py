"""Starting and stopping the servers that the Python tests talk to.

A server runs on a unix socket (or a TCP port that it chooses) in a directory of its own; both are removed when
the test ends. Nothing here sleeps for a
fixed time to wait for a server: start() polls until it answers.

A test must have the same result on a fast machine and on a busy one. So waits end after PATIENCE_SECONDS, which
only a hang takes, and random choices come from seed(), which is fixed.
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback


PATIENCE_SECONDS = float(os.environ.get("PATIENCE", 120))
FAILED = []  # what expect() and run_scenarios() met
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))  # a login has 1024 of many more


def seed():
    """The seed of a test's random choices: $SEED, otherwise always the same; it is printed."""
    number = int(os.environ.get("SEED", "1"))
    print("SEED=%d" % number, flush=True)
    return number


def connect_unix(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        s.connect(path)
    except OSError:
        s.close()
        raise
    return s


def end_probe(s):
    """Ends a connection that has said nothing, and waits until the server has closed it: it is no longer counted then."""
    with s:
        s.settimeout(PATIENCE_SECONDS)
        s.shutdown(socket.SHUT_WR)
        while s.recv(100):
            pass


class Server:
    """One server process; use as a context manager. Its last lines are shown if something failed meanwhile."""

    def __init__(self, binary, flags=(), name="server", tcp=False):
        self.binary = binary
        self.flags = list(flags)
        self.name = name
        self.tcp = tcp
        self.dir = tempfile.mkdtemp(prefix="extant-%s." % name)
        self.path = os.path.join(self.dir, "sock")
        self.log = os.path.join(self.dir, "log")
        self.port = None
        self.process = None
        self.failed_before = len(FAILED)
        self.has_served = False

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()

    def tell_of_failure(self):
        """Shows the last lines if an exception is on its way, or a claim has failed since this server was made."""
        kind = sys.exc_info()[0]
        if not self.has_served or (kind is None and len(FAILED) == self.failed_before):
            return  # start() has told of one that never served
        ended = self.process.poll()
        print("---- %s after %s%s, its last lines:\n%s----" % (
            self.name, "a failed claim" if kind is None else kind.__name__,
            "" if ended is None else " (it had ended with %s)" % ended, self.log_tail()), file=sys.stderr, flush=True)

    def start(self):
        command = [self.binary]
        if os.getuid() == 0:
            command += ["-u", "root"]
        environ = dict(os.environ)
        if self.tcp:
            ports = os.path.join(self.dir, "ports")
            environ["MEMCACHED_PORT_FILENAME"] = ports
            command += ["-l", "127.0.0.1", "-p", "-1", "-U", "0"]
        else:
            command += ["-s", self.path]
        command += [f.replace("@DIR@", self.dir) for f in self.flags + self.patient_flags()]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ)
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError("%s didn't start: %s\n%s" % (
                    self.binary, self.process.returncode, self.log_tail()))
            try:
                if self.tcp:
                    with open(ports) as f:
                        self.port = int(next(line for line in f if line.startswith("TCP"))
                                        .split(":")[-1])
                end_probe(self.connect())
                self.has_served = True
                return
            except (OSError, ValueError, StopIteration):
                time.sleep(0.01)
        raise RuntimeError("%s doesn't answer" % self.binary)

    def patient_flags(self):
        """A slow disk must not decide what is evicted: with flash, sets wait for a write buffer for as long as a test."""
        text = " ".join(self.flags)
        if not is_extant(self.binary) or "ext_path" not in text or "ext_max_sleep" in text:
            return []
        return ["-o", "ext_max_sleep=%d" % (PATIENCE_SECONDS * 1e6)]

    def connect(self):
        if self.tcp:
            s = socket.create_connection(("127.0.0.1", self.port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return s
        return connect_unix(self.path)

    def command(self, line):
        """Sends one line, returns the answer up to END, OK, RESET or an error."""
        with self.connect() as s:
            s.settimeout(PATIENCE_SECONDS)
            s.sendall(line + b"\r\n")
            out = b""
            while not out.endswith((b"END\r\n", b"OK\r\n", b"RESET\r\n", b"ERROR\r\n")):
                piece = s.recv(65536)
                if not piece:
                    break
                out += piece
            return out

    def stats(self, what=b""):
        out = {}
        for line in self.command(b"stats " + what if what else b"stats").split(b"\r\n"):
            word = line.decode("latin-1").split(" ", 2)
            if word[0] == "STAT" and len(word) == 3:
                out[word[1]] = word[2]
        return out

    def rss_kb(self, peak=False):
        field = "VmHWM:" if peak else "VmRSS:"
        with open("/proc/%d/status" % self.process.pid) as f:
            for line in f:
                if line.startswith(field):
                    return int(line.split()[1])
        return 0

    def log_tail(self):
        try:
            with open(self.log, "rb") as f:
                return f.read()[-2000:].decode("latin-1")
        except OSError:
            return ""

    def stop(self):
        """SIGTERM, and SIGKILL after PATIENCE_SECONDS. Returns the exit code, None if it never ran."""
        code = None
        if self.process is not None:
            self.tell_of_failure()
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait()
            self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)
        return code


def has_descriptors(count):
    """Whether a test, and its server, may each have this many; says so if not."""
    if DESCRIPTORS < count:
        print('# skipped: it needs %d descriptors, and the hard limit is %d' % (count, DESCRIPTORS), flush=True)
    return DESCRIPTORS >= count


class Closed(ConnectionError):
    """The server, or the network, ended the connection."""


class Client:
    """One connection to a Server, or to the unix socket at a path: a request is sent and its answer waited for.
    Lines come without their ends. A connection that ends raises Closed, silence TimeoutError with what was said last."""

    def __init__(self, where):
        self.sock = connect_unix(where) if isinstance(where, str) else where.connect()
        self.sock.settimeout(PATIENCE_SECONDS)
        self.file = self.sock.makefile("rb")
        self.sent = self.seen = b""

    def send(self, data):
        self.sent = data
        try:
            self.sock.sendall(data)
        except ConnectionError as e:
            raise Closed(str(e)) from e

    def read(self, what, *args):
        try:
            return what(*args)
        except ConnectionError as e:
            raise Closed(str(e)) from e
        except TimeoutError:
            raise TimeoutError("no answer within %g s; sent last: %r, line read last: %r" % (
                self.sock.gettimeout(), self.sent[-100:], self.seen[:200])) from None

    def line(self):
        line = self.read(self.file.readline)
        if not line.endswith(b"\n"):
            raise Closed("closed after %r" % line)
        self.seen = line
        return line.rstrip(b"\r\n")

    def exactly(self, count):
        data = self.read(self.file.read, count)
        if len(data) < count:
            raise Closed("closed after %d of %d bytes" % (len(data), count))
        return data

    def ask(self, request):
        """The first line of the answer."""
        self.send(request + b"\r\n")
        return self.line()

    def lines(self, *requests):
        """All lines of all answers. A few requests at a time, so that neither side waits for the other."""
        answers = []
        for i in range(0, len(requests), 200):
            self.send(b"".join(r + b"\r\n" for r in requests[i:i + 200]) + b"mn\r\n")
            answers += iter(self.line, b"MN")
        return answers

    def set(self, key, value, exptime=0):
        return self.ask(b"set %s 0 %d %d\r\n%s" % (key, exptime, len(value), value)) == b"STORED"

    def get(self, key):
        """The value, None if there is none."""
        line = self.ask(b"get %s" % key)
        if line == b"END":
            return None
        value = self.exactly(int(line.split()[3]) + 2)[:-2]
        assert self.line() == b"END"
        return value

    def fill(self, prefix, count, value):
        """Sets PREFIX0 and on; no answers are asked for. Returns when all are stored."""
        for i in range(count):
            self.send(b"set %s%d 0 0 %d noreply\r\n%s\r\n" % (prefix, i, len(value), value))
        self.ask(b"mn")

    def delete(self, keys):
        for key in keys:
            self.send(b"delete %s noreply\r\n" % key)
        self.ask(b"mn")

    def stats(self, group=b""):
        self.send(b"stats %s\r\n" % group if group else b"stats\r\n")
        return dict(line.decode("latin-1").split(" ", 2)[1:] for line in iter(self.line, b"END"))

    def close(self):
        self.file.close()
        self.sock.close()


def make_cert(directory, name="server", ca=None, common_name="localhost", options=()):
    """NAME.crt and NAME.key in the directory, signed by the CA of that name there, or by itself."""
    crt, key = (os.path.join(directory, name + end) for end in (".crt", ".key"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-days", "3", "-subj", "/CN=" + common_name, "-addext",
               "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", crt, "-keyout", key, *options]
    if ca:
        command += ["-CA", os.path.join(directory, ca + ".crt"),
                    "-CAkey", os.path.join(directory, ca + ".key")]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
    return crt, key


def is_extant(binary):
    return os.path.basename(binary).startswith("extant")


# ---- scenarios: functions that say what they expect ----


def expect(what, condition, detail=''):
    """One claim; a failure is printed and counted."""
    if not condition:
        text = '%s: %s' % (what, detail)
        print('not ok ' + text, flush=True)
        FAILED.append(text)


def wait_for(condition, seconds=PATIENCE_SECONDS):
    """True as soon as condition() is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def run_scenarios(scenarios):
    """Runs all, or those that are named on the command line; the exit code. One that raises has failed, and the next
    is run. What failed is told again at the end."""
    unknown = set(sys.argv[1:]) - {scenario.__name__ for scenario in scenarios}
    if unknown:
        sys.exit('no scenario %s; there are: %s' % (', '.join(sorted(unknown)),
                                                   ', '.join(scenario.__name__ for scenario in scenarios)))
    for scenario in scenarios:
        if sys.argv[1:] and scenario.__name__ not in sys.argv[1:]:
            continue
        failed, name = len(FAILED), scenario.__name__.replace('_', ' ')
        try:
            scenario()
        except Exception as e:
            traceback.print_exc()
            FAILED.append('%s: %s: %s' % (name, type(e).__name__, e))
        print('%s %s' % ('ok    ' if len(FAILED) == failed else 'not ok', name), flush=True)
    sys.stderr.flush()
    for what in FAILED[-10:]:
        print('failed: %.300s' % what)
    print('%d failed' % len(FAILED))
    return 1 if FAILED else 0
