"""The bench's machine: processes pinned to cores, their CPU and memory, memory cgroups, the
servers that are measured and the load generator's runs.

Everything started here is stopped here, and takes its files and cgroups with it.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time

from bench_table import BenchError, parse_kv, parse_stats

MIB = 1 << 20
KEY_BYTES = 20
START_SECONDS = 20  # longest wait for a server to answer


def cpu_seconds(pid):
    """User + system time of a process so far, all its threads, also those that ended."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of another process


def io_bytes(pid):
    """(read, written) bytes that the process caused on block devices."""
    with open("/proc/%d/io" % pid) as f:
        io = dict(line.split(": ") for line in f.read().splitlines())
    return int(io["read_bytes"]), int(io["write_bytes"])


def rss_bytes(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def pinned(cores, fifo=False):
    """For Popen's preexec_fn: these cores only; fifo: ahead of every other client there."""
    def set_up():
        os.sched_setaffinity(0, cores)
        if fifo:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return set_up


class Cores:
    """Which core runs what: one for the server, one for clients, the rest as requested."""

    def __init__(self):
        all_cores = sorted(os.sched_getaffinity(0))
        self.count = len(all_cores)
        self.server = {all_cores[0]}
        self.client = {all_cores[1 % self.count]}
        self.servers = set(all_cores[:2])
        self.clients = [{c} for c in all_cores[2:4]]


class Cgroup:
    """A memory cgroup that charges page cache, of version 1 or 2; path None if there is none."""

    def __init__(self, name, limit_bytes):
        self.path = None
        for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                            ("/sys/fs/cgroup", "memory.max")):
            path = os.path.join(base, "extant-bench-%d-%s" % (os.getpid(), name))
            try:
                if base == "/sys/fs/cgroup":
                    with open(os.path.join(base, "cgroup.subtree_control"), "r+") as f:
                        if "memory" not in f.read():
                            f.write("+memory")
                os.mkdir(path)
            except OSError:
                continue
            try:
                with open(os.path.join(path, limit), "w") as f:
                    f.write("%d" % limit_bytes)
                self.path = path
                return
            except OSError:
                os.rmdir(path)

    def join(self):
        """Called in the child: puts this process into the group."""
        if self.path:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as f:
                f.write("%d" % os.getpid())

    def usage(self):
        for name in ("memory.usage_in_bytes", "memory.current"):
            with contextlib.suppress(OSError, TypeError):
                with open(os.path.join(self.path, name)) as f:
                    return int(f.read())
        return 0

    def remove(self):
        end = time.monotonic() + 5
        while self.path and time.monotonic() < end:
            try:
                os.rmdir(self.path)
                self.path = None
            except OSError:
                time.sleep(0.05)


def drop_caches():
    """Without a cgroup, at least empties the page cache before a run."""
    os.sync()
    with contextlib.suppress(OSError):
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")


def machine_line(directory):
    model = "?"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 1024 / 1024
    mount = subprocess.run(["df", "--output=source,fstype", directory], capture_output=True,
                           text=True, check=False).stdout.split()[-2:]
    return "%s, %d cores, %.0f GB RAM, Linux %s, flash files on %s" % (
        model, os.cpu_count(), memory, os.uname().release, " ".join(mount))


def version_of(binary):
    out = subprocess.run([binary, "-V"], capture_output=True, text=True, check=False)
    lines = (out.stdout + out.stderr).split("\n")
    return lines[0].strip() or os.path.basename(binary)


# ---- servers and clients ---------------------------------------------------------------


class Server:
    """One server process, pinned, in a memory cgroup if limit_bytes is given.

    Its flash file and the cgroup go with it. Use as a context manager.
    """

    def __init__(self, bench, binary, name, flags, flash_bytes=0, flash_options="",
                 limit_bytes=0, cores=None):
        self.bench = bench
        self.name = name
        self.flash = os.path.join(bench.dir, "%s-%d.flash" % (name, os.getpid()))
        self.cgroup = Cgroup(name, limit_bytes) if limit_bytes else None
        self.cores = cores or bench.cores.server
        self.command = [binary, "-l", "127.0.0.1", "-U", "0", "-c", "2048"] + flags
        if os.getuid() == 0:
            self.command += ["-u", "root"]
        if flash_bytes:
            self.command += ["-o", "ext_path=%s:%dm%s" % (
                self.flash, flash_bytes // MIB, flash_options)]
        self.process = None
        self.log = None
        self.port = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        pin = pinned(self.cores)

        def set_up():
            pin()
            if self.cgroup:
                self.cgroup.join()
        self.log = open(os.path.join(self.bench.dir, self.name + ".log"), "w+b")
        self.process = subprocess.Popen(
            self.command + ["-p", str(self.port)], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, preexec_fn=set_up)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check_alive()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.01)
        raise BenchError("%s doesn't answer" % self.name)

    def check_alive(self):
        code = self.process.poll()
        if code is not None:
            self.log.seek(0)
            tail = self.log.read()[-300:].decode("latin-1").strip().replace("\n", "; ")
            why = signal.Signals(-code).name if code < 0 else "exit %d" % code
            raise BenchError("%s died (%s): %s" % (self.name, why, tail))

    def cpu(self):
        self.check_alive()
        return cpu_seconds(self.process.pid)

    def io(self):
        return io_bytes(self.process.pid)

    def stats(self, what=""):
        with socket.create_connection(("127.0.0.1", self.port), 20) as s:
            s.settimeout(20)
            s.sendall(b"stats %s\r\n" % what.encode() if what else b"stats\r\n")
            reply = b""
            while not reply.endswith((b"END\r\n", b"ERROR\r\n")):
                piece = s.recv(65536)
                if not piece:
                    break
                reply += piece
        return parse_stats(reply.decode("latin-1"))

    def stat(self, name, what=""):
        stats = self.stats(what)
        if name not in stats:
            raise BenchError("%s has no stat %s" % (self.name, name))
        return float(stats[name])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.log:
            self.log.close()
        if self.cgroup:
            self.cgroup.remove()
        with contextlib.suppress(OSError):
            os.unlink(self.flash)


class Client:
    """A run of the load generator under way; done() checks it and gives its figures."""

    def __init__(self, bench, server, options, cores=None, fifo=False):
        self.server = server
        command = [bench.load, "--server", "127.0.0.1:%d" % server.port, "--kv",
                   "--key-size", str(KEY_BYTES)]
        for name, value in options.items():
            command += ["--" + name] if value is True else ["--" + name, str(value)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=pinned(cores or bench.cores.client, fifo))

    def done(self):
        out, err = self.process.communicate()
        self.server.check_alive()
        if self.process.returncode != 0:
            raise BenchError("load: exit %d: %s" % (self.process.returncode, err.strip()[-200:]))
        return parse_kv(out)
