#!/usr/bin/env python3
"""Writes extant(1) from the program's own help, so that the two can't differ: man-page.py EXTANT >extant.1

What the help does not say stands below, in troff.
"""

import re
import subprocess
import sys

HEAD = r'''.\" Written by packaging/man-page.py from the help of the program.
.TH EXTANT 1 "" "extant %(version)s" "Extant"
.SH NAME
extant \- a cache in memory and on flash for memcached's clients
.SH SYNOPSIS
.B extant
.RI [ options ]
.SH DESCRIPTION
Extant serves the protocols of memcached %(level)s. Hot values are in memory, the rest is on flash, and
with
.B \-e
or
.B \-o ext_persist
the cache outlives the process.
Options have the meaning that they have in memcached; those of Extant alone have long names, or are
suboptions of
.B \-o
that memcached doesn't know.
'''

TAIL = r'''.SH SIGNALS
.TP
.B SIGTERM, SIGINT, SIGUSR1
A clean stop. What
.B ext_persist
keeps is written first. A second SIGTERM or SIGINT, 5 s or more after the first, ends the process at once, as
.B kill \-9
would, with the exit code 143 or 130.
.TP
.B SIGHUP
Opens the log file again, and reads the file of users and the certificates again.
.SH ENVIRONMENT
.TP
.B NOTIFY_SOCKET
Socket on which the service manager learns that the server is ready or stops; see sd_notify(3).
.TP
.B LISTEN_FDS, LISTEN_PID
Sockets that a service manager has opened. They take the place of
.BR \-l ,
.B \-p
and
.BR \-s .
.TP
.B MEMCACHED_PORT_FILENAME
A file to which the ports are written.
.TP
.B MEMCACHED_SASL_PWDB
The file of users for
.B \-S
without
.BR \-Y .
.SH FILES
.TP
.I /etc/extant.conf
Options, one a line, in the syntax of memcached.conf; read by the systemd unit through
.BR \-\-config .
.TP
.I /dev/shm/extant
The package makes this directory, on tmpfs, for the file of
.BR \-e ,
.IR /dev/shm/extant/memory .
.SH SEE ALSO
.BR extant\-top (1),
.BR memcached (1)
'''


def quoted(text):
    text = text.replace('\\', '\\e').replace('-', '\\-')
    return ("\\&" + text) if text.startswith(('.', "'")) else text


def body(lines):
    section, out, open_term = None, [], False
    for line in lines:
        flag = re.match(r'^((?:-\w)?(?:, )?(?:--[\w-]+)?\S*(?: <\S+)?)\s+(\S.*)$', line) if line.startswith('-') else None
        sub = re.match(r'^   - (\w+):\s+(.*)$', line)
        if line and not line.startswith((' ', '-')) and not line.endswith('.') and ':' not in line.replace('-o:', ''):
            section = line
            out.append('.SH %s' % quoted(section.upper()) if not section.startswith('-o') else
                       '.SH "SUBOPTIONS OF \\-o:%s"' % quoted(section[3:].upper()))
            open_term = False
        elif flag:
            out += ['.TP', '.B %s' % quoted(flag.group(1)), quoted(flag.group(2))]
            open_term = True
        elif sub:
            out += ['.TP', '.B %s' % quoted(sub.group(1)), quoted(sub.group(2))]
            open_term = True
        elif line.startswith('  ') and section == 'Examples':
            bare = line.strip()
            out += ['.TP', '.B %s' % quoted(bare)] if bare.startswith('extant') else [quoted(bare)]
        elif line.startswith(' ') and open_term:
            out.append(quoted(line.strip()))
    return out


def main():
    text = subprocess.run([sys.argv[1], '-h'], capture_output=True, text=True, check=True).stdout
    lines = text.splitlines()
    version, level = re.match(r'extant (\S+) \(memcached (\S+) protocol\)', lines[0]).groups()
    codes = text[text.index('Exit codes: '):].replace('\n', ' ')[len('Exit codes: '):].strip()
    middle = lines[2:next(i for i, line in enumerate(lines) if line.startswith('Exit codes'))]
    print(HEAD % {'version': version, 'level': level} + '\n'.join(body(middle)))
    print('.SH EXIT STATUS\n' + quoted(codes))
    print(TAIL, end='')


if __name__ == '__main__':
    main()
