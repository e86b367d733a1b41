#!/usr/bin/env python3
"""Under a service manager: the server reports when it is ready and when it stops; sockets that the manager passes in
are taken, so a restart refuses no connection. The units, the man page and the completion are checked, too.

EXTANT_DEBUG_BIN names the binary. Exit 0: all right; 1: not.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT_DEBUG_BIN', './extant-debug')
PACKAGING = os.path.join(HERE, '..', '..', 'packaging')


def start(flags, fds=(), **environ):
    """The server, with these descriptors from 3 on. The variables are for the process that execs."""
    command = [os.path.abspath(BINARY)] + list(flags) + (['-u', 'root'] if os.getuid() == 0 else [])
    shell = 'LISTEN_PID=$$ exec "$@"' if fds else 'exec "$@"'

    def place():
        high = [os.dup2(fd, 100 + i) for i, fd in enumerate(fds)]
        for i, fd in enumerate(high):
            os.dup2(fd, 3 + i)

    env = dict(os.environ, **environ)
    if fds:
        env['LISTEN_FDS'] = str(len(fds))
    return subprocess.Popen(['/bin/sh', '-c', shell, 'sh'] + command, env=env, close_fds=False, preexec_fn=place,
                            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process):
    process.send_signal(signal.SIGTERM)
    return process.wait(servers.PATIENCE_SECONDS), process.stderr.read()


def ask(address, request):
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(servers.PATIENCE_SECONDS)
        s.connect(address)
        s.sendall(request)
        return s.recv(1000)


def listener():
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    s.listen(64)
    return s


def the_manager_is_told():
    for abstract in (False, True):
        with tempfile.TemporaryDirectory() as d, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(servers.PATIENCE_SECONDS)
            name = '@extant-test-%d' % os.getpid() if abstract else d + '/notify'
            notify.bind(name.replace('@', '\0') if abstract else name)
            process = start(['-s', d + '/s', '-o', 'drop_privileges'], NOTIFY_SOCKET=name)
            told = notify.recv(2000).decode()
            while 'READY=1' not in told:
                told = notify.recv(2000).decode()
            expect('ready', told.startswith('READY=1\nMAINPID=%d\nSTATUS=serving' % process.pid), told)
            expect('it serves by then', ask(d + '/s', b'mn\r\n') == b'MN\r\n')
            code, log = end(process)
            told = notify.recv(2000)
            while not told.startswith(b'STOPPING=1'):
                told = notify.recv(2000)
            expect('stopping', told == b'STOPPING=1\nSTATUS=stopping', told)
            expect('exit', code == 0, (code, log))


def nobody_listens():
    with tempfile.TemporaryDirectory() as d:
        process = start(['-s', d + '/s'], NOTIFY_SOCKET=d + '/none')
        expect('it serves', wait_for(lambda: os.path.exists(d + '/s')))
        expect('exit', end(process)[0] == 0)


def passed_sockets_are_served():
    with tempfile.TemporaryDirectory() as d, listener() as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(d + '/local')
        local.listen(64)
        process = start(['-p', '1'], (tcp.fileno(), local.fileno()))
        expect('TCP', ask(tcp.getsockname(), b'mn\r\n') == b'MN\r\n')
        expect('unix', ask(d + '/local', b'mn\r\n') == b'MN\r\n')
        code, log = end(process)
        expect('log', 'listening on 2 sockets passed by the service manager' in log, log)
        expect('the socket stays', os.path.exists(d + '/local') and code == 0)


def a_restart_refuses_no_connection():
    with listener() as tcp:
        address = tcp.getsockname()
        process = start([], (tcp.fileno(),))
        expect('before', ask(address, b'mn\r\n') == b'MN\r\n')
        expect('exit', end(process)[0] == 0)
        waiting = [socket.create_connection(address, timeout=servers.PATIENCE_SECONDS) for _ in range(20)]
        for s in waiting:
            s.sendall(b'mn\r\n')
        process = start([], (tcp.fileno(),))
        expect('those who came meanwhile', all(s.recv(100) == b'MN\r\n' for s in waiting))
        for s in waiting:
            s.close()
        expect('exit', end(process)[0] == 0)


def what_is_no_listener_is_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(('127.0.0.1', 0))
        process = start([], (udp.fileno(),))
        log = process.stderr.read()
        expect('refused', process.wait(servers.PATIENCE_SECONDS) == 71 and 'descriptor 3, passed by the service manager, is no stream socket' in log,
               log)


def log_privileges_forbids_nothing():
    with tempfile.TemporaryDirectory() as d:
        process = start(['-s', d + '/s', '-o', 'drop_privileges,log_privileges'])
        expect('it serves', wait_for(lambda: os.path.exists(d + '/s')) and ask(d + '/s', b'mn\r\n') == b'MN\r\n')
        with open('/proc/%d/status' % process.pid) as f:
            expect('there is a filter', re.search(r'^Seccomp:\s+2$', f.read(), re.M))
        expect('exit', end(process)[0] == 0)


def units():
    if not shutil.which('systemd-analyze'):
        print('       no systemd-analyze here')
        return
    with tempfile.TemporaryDirectory() as d:
        for name in ('extant.service', 'extant.socket'):
            with open(os.path.join(PACKAGING, 'systemd', name)) as f:
                text = f.read()
            with open(os.path.join(d, name), 'w') as f:
                f.write(re.sub(r'^(ExecStart\w*=)\S+', r'\g<1>/bin/true', text, flags=re.M))
        run = subprocess.run(['systemd-analyze', 'verify', '--man=no', d + '/extant.service', d + '/extant.socket'],
                             capture_output=True, text=True)
        ours = [line for line in run.stderr.splitlines() if 'extant' in line]
        expect('verify', not ours, ours)
        run = subprocess.run(['systemd-analyze', 'security', '--offline=yes', '--no-pager', d + '/extant.service'],
                             capture_output=True, text=True)
        level = re.search(r'Overall exposure level for .*: ([0-9.]+)', run.stdout)
        expect('exposure', level and float(level.group(1)) <= 1.5, run.stdout[-2000:])


def values_of_charts_start_it():
    """The charts' arguments with those of our values, joined as the charts do it."""
    for name, words in (('loki', 'modern,track_sizes,ext_path=@DIR@/file:1G,ext_wbuf_size=16'), ('mimir', 'modern')):
        with open(os.path.join(PACKAGING, 'kubernetes', name + '-values.yaml')) as f:
            text = f.read()
        more = re.search(r'^  extraExtendedOptions: (\S+)$', text, re.M).group(1)
        with tempfile.TemporaryDirectory() as d:
            words = words.replace('@DIR@', d)
            more = more.replace('/data', d).replace(':90g', ':1g')
            run = subprocess.run([BINARY, '-m 1024', '--extended=%s,%s' % (words, more), '-I 5m', '-c 16384', '-v',
                                  '-u 11211', '--check-config'], capture_output=True, text=True)
            expect(name, run.returncode == 0, run.stderr)
    with open(os.path.join(PACKAGING, 'kubernetes', 'loki-values.yaml')) as f:
        text = f.read()
    ports = set(re.findall(r'httpGet: {.*port: (\d+)}', text))
    for cache in ('chunksCache', 'resultsCache'):  # the chart gives the image and the probes to both
        options = re.search(r'^%s:\n(?:[ #\n].*\n|\n)*?  extraExtendedOptions: (\S+)$' % cache, text, re.M)
        expect(cache + ' answers its probes', options and {'http=0.0.0.0:' + port for port in ports} <= set(
            options.group(1).split(',')) and len(ports) == 1, (options and options.group(1), ports))
    expect('a tenth of the volume is left', re.search(r'^    storageSize: \d+Gi$', text, re.M), text)


def make_install_and_uninstall():
    top = os.path.join(HERE, '..', '..')
    with tempfile.TemporaryDirectory() as d:
        for what in ('install', 'uninstall'):
            run = subprocess.run(['make', '-s', '-C', top, what, 'DESTDIR=' + d, 'PREFIX=/usr', '-o', 'extant'],
                                 capture_output=True, text=True)
            expect(what, run.returncode == 0, run.stderr)
            there = sorted(os.path.relpath(os.path.join(at, f), d) for at, _, files in os.walk(d) for f in files)
            if what == 'uninstall':
                expect('all of it is gone', there == [], there)
                continue
            for name in ('usr/bin/extant', 'usr/bin/extant-top', 'usr/share/man/man1/extant.1', 'etc/extant.conf',
                         'usr/share/bash-completion/completions/extant', 'usr/lib/systemd/system/extant.service',
                         'usr/lib/systemd/system/extant.socket', 'usr/lib/sysusers.d/extant.conf',
                         'usr/lib/tmpfiles.d/extant.conf', 'usr/share/extant/alerts.yml'):
                expect(name, name in there, there)
            with open(d + '/usr/lib/systemd/system/extant.service') as f:
                expect('its paths', 'ExecStart=/usr/bin/extant --config /etc/extant.conf\n' in f.read())
            run = subprocess.run([d + '/usr/bin/extant', '--config', d + '/etc/extant.conf', '--check-config'],
                                 capture_output=True, text=True)
            expect('extant.conf is right', run.returncode == 0, run.stderr)


def install_without_python_says_so():
    top = os.path.join(HERE, '..', '..')
    with tempfile.TemporaryDirectory() as d:
        for at in ('/usr/bin', '/bin'):
            for name in os.listdir(at):
                if not name.startswith('python') and not os.path.lexists(os.path.join(d, name)):
                    os.symlink(os.path.join(at, name), os.path.join(d, name))
        run = subprocess.run(['make', '-s', '-C', top, 'build/extant.1', '-W', 'packaging/man-page.py', '-o', 'extant'],
                             capture_output=True, text=True, env=dict(os.environ, PATH=d))
        expect('one line', run.returncode != 0 and 'no python3, which writes extant(1)' in run.stderr, run.stderr)


def the_image():
    """A build of the image doesn't see what was built here; and the image has the libraries that are linked."""
    top = os.path.join(HERE, '..', '..')
    with open(top + '/.gitignore') as f:
        ours = {line.strip('/') for line in f.read().split()}
    with open(top + '/.dockerignore') as f:
        hidden = {line.replace('**', '').strip('/') for line in f.read().splitlines() if not line.startswith('#')}
    expect('all that git ignores', ours <= hidden, ours - hidden)
    if not shutil.which('dpkg-query'):
        return
    with open(top + '/Dockerfile') as f:
        there = set(re.findall(r'[a-z][\w.+-]+', f.read().rpartition('\nFROM ')[2].partition('useradd')[0]))
    linked = subprocess.run(['ldd', BINARY], capture_output=True, text=True).stdout
    needed = re.findall(r'NEEDED +(\S+)', subprocess.run(['objdump', '-p', BINARY], capture_output=True, text=True).stdout)
    expect('it is linked', len(needed) > 5, linked)
    for name in needed:
        if name.startswith('ld-linux'):  # libc6's, and ldd shows it in another form
            continue
        path = os.path.realpath(re.search(r'%s => (\S+)' % re.escape(name), linked).group(1))
        owner = subprocess.run(['dpkg-query', '-S', '*/' + os.path.basename(path)], capture_output=True, text=True).stdout
        owners = {line.partition(':')[0] for line in owner.splitlines()}
        expect(name, owners & (there | {'libc6', 'libgcc-s1', 'libstdc++6'}), (path, owner))


def man_page_and_completion():
    help_text = subprocess.run([BINARY, '-h'], capture_output=True, text=True).stdout
    options = set(re.findall(r'^ *(?:-\w, )?(--[\w-]+)', help_text, re.M)) | set(re.findall(r'^   - (\w+):', help_text, re.M))
    run = subprocess.run([os.path.join(PACKAGING, 'man-page.py'), BINARY], capture_output=True, text=True)
    page = run.stdout
    expect('it is written', run.returncode == 0 and '.SH EXAMPLES' in page and '.SH EXIT STATUS' in page, run.stderr)
    with tempfile.NamedTemporaryFile('w', suffix='.1') as f:
        f.write(page)
        f.flush()
        for name in (f.name, os.path.join(PACKAGING, 'extant-top.1')) if shutil.which('man') else ():
            run = subprocess.run(['man', '--warnings', '-E', 'UTF-8', '-l', '-Tutf8', '-Z', name], capture_output=True,
                                 text=True, env=dict(os.environ, LC_ALL='C.UTF-8', MANWIDTH='80'))
            expect('groff', run.returncode == 0 and run.stderr == '', run.stderr)
    with open(os.path.join(PACKAGING, 'extant.tmpfiles')) as f:
        taken = re.findall(r'^d (\S+)', f.read(), re.M)
    examples = re.findall(r'^  extant (.*)$', help_text, re.M)
    for example in examples:
        expect('no file where the package has a directory', not set(taken) & set(example.split()), example)
        if '--config' not in example:
            run = subprocess.run([BINARY, *example.split(), '-u', 'root', '--check-config'], capture_output=True, text=True)
            expect('it is valid', run.returncode == 0, (example, run.stderr))
    expect('examples', len(examples) == 4 and taken == ['/dev/shm/extant'], (examples, taken))
    told = page.replace('\\-', '-')
    expect('the man page has every option', all(o in told for o in options), [o for o in options if o not in told])
    completion = os.path.join(PACKAGING, 'extant.bash')
    run = subprocess.run(['bash', '-c', 'PATH=%s:$PATH; source %s; COMP_WORDS=(extant --ht); COMP_CWORD=1; _extant; '
                          'echo "${COMPREPLY[@]}"; COMP_WORDS=(extant -o ext_persi); COMP_CWORD=2; _extant; '
                          'echo "${COMPREPLY[@]}"' % (os.environ.get('PATH'), completion)],
                         capture_output=True, text=True, env=dict(os.environ, EXTANT_COMPLETE=os.path.abspath(BINARY)))
    expect('completion', run.stdout.split() == ['--http', 'ext_persist='], (run.stdout, run.stderr))


if __name__ == '__main__':
    sys.exit(servers.run_scenarios((the_manager_is_told, nobody_listens, passed_sockets_are_served,
                                    a_restart_refuses_no_connection, what_is_no_listener_is_refused,
                                    log_privileges_forbids_nothing, units,
                                    values_of_charts_start_it, make_install_and_uninstall,
                                    install_without_python_says_so, the_image, man_page_and_completion)))
