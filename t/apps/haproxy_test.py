#!/usr/bin/python3
"""haproxy in front of a server: its health checks (TCP, version, /readyz) find it up, see that it is gone and that it is
back, and requests pass. A PROXY header, which Extant does not read, is told of in the log.
"""
# row: haproxy | haproxy | text | checks by connection, version and /readyz: up, down, up again; requests pass

import os
import shutil
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "aid"))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get("EXTANT", "./extant")
CONF = """defaults
  mode tcp
  timeout connect 60s
  timeout client 60s
  timeout server 60s
  timeout check 60s
  default-server inter 50ms fastinter 50ms downinter 50ms
listen stats
  mode http
  bind unix@{dir}/stats
  stats enable
  stats uri /
listen tcp
  bind unix@{dir}/tcp
  option tcp-check
  server it 127.0.0.1:{port} check
listen version
  bind unix@{dir}/version
  option tcp-check
  tcp-check connect
  tcp-check send "version\\r\\n"
  tcp-check expect string VERSION
  server it 127.0.0.1:{port} check
listen readyz
  bind unix@{dir}/readyz
  option httpchk GET /readyz
  http-check expect status 200
  server it 127.0.0.1:{port} check port {http}
listen proxyheader
  bind unix@{dir}/proxyheader
  server it 127.0.0.1:{port} send-proxy
"""
CHECKS = ("tcp", "version", "readyz")


def ask(path, request):
    with servers.connect_unix(path) as s:
        s.settimeout(servers.PATIENCE_SECONDS)
        s.sendall(request)
        out = b""
        while piece := s.recv(65536):
            out += piece
        return out


def states(directory):
    """What haproxy thinks of the server, check by check."""
    table = ask(directory + "/stats", b"GET /;csv HTTP/1.0\r\n\r\n").decode().split("\n\n")[-1]
    rows = (line.split(",") for line in table.replace("\r", "").splitlines())
    return {row[0]: row[17].split(" ")[0] for row in rows if len(row) > 17 and row[1] == "it" and row[0] in CHECKS}


def all_are(directory, state):
    def seen():
        try:
            return states(directory) == dict.fromkeys(CHECKS, state)
        except OSError:
            return False
    return wait_for(seen)


def main():
    haproxy = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    if not haproxy:
        print("haproxy is not installed")
        sys.exit(77)
    with socket.create_server(("127.0.0.1", 0)) as free:
        http = free.getsockname()[1]
    server = servers.Server(BINARY, ["-m", "32", "--http", str(http)], "haproxy", tcp=True)
    with tempfile.TemporaryDirectory(prefix="extant-haproxy.") as d, server:
        with open(d + "/conf", "w") as f:
            f.write(CONF.format(dir=d, port=server.port, http=http))
        with open(d + "/log", "w") as log:
            proxy = subprocess.Popen([haproxy, "-f", d + "/conf"], stdout=log, stderr=log)
        try:
            wait_for(lambda: os.path.exists(d + "/stats") or proxy.poll() is not None)
            expect("all checks find it", all_are(d, "UP"))
            for name in CHECKS:
                said = ask(d + "/" + name, b"set %s 0 0 2\r\nhi\r\nget %s\r\nquit\r\n" % (name.encode(), name.encode()))
                expect(name + ": requests pass", said == b"STORED\r\nVALUE %s 0 2\r\nhi\r\nEND\r\n" % name.encode(), said)
            ask(d + "/proxyheader", b"mn\r\nquit\r\n")
            expect("the PROXY header is told of", wait_for(lambda: "send-proxy" in server.log_tail()), server.log_tail())
            server.process.kill()
            server.process.wait()
            expect("all checks see that it is gone", all_are(d, "DOWN"))
            server.flags += ["-p", str(server.port)]
            server.start()
            expect("and that it is back", all_are(d, "UP"))
            said = ask(d + "/version", b"mn\r\nquit\r\n")
            expect("requests pass again", said == b"MN\r\n", said)
        finally:
            proxy.terminate()
            proxy.wait()
            with open(d + "/log") as log:
                if servers.FAILED:
                    print(log.read()[-2000:])
    print("%d failed" % len(servers.FAILED))
    sys.exit(1 if servers.FAILED else 0)


main()
