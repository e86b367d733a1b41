#!/usr/bin/env python3
"""The status page in a headless Chromium, on a desk and on a phone: its sentences agree with `stats`, it updates
itself, nothing is wider than the screen, the console stays empty, and the page says when the server stops.

EXTANT_DEBUG_BIN names the binary; SCREENSHOTS a directory to leave pictures in. Exit 0: all right; 1: not;
77: there is no chromium.
"""

import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import browser  # noqa: E402
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT_DEBUG_BIN', './extant-debug')
SHOTS = os.environ.get('SCREENSHOTS')
READY = 'document.body && document.body.dataset.ready === "yes"'
SENTENCES = 'Array.from(document.querySelectorAll("#say p")).map(p => p.textContent)'
TOO_WIDE = 'document.documentElement.scrollWidth - document.documentElement.clientWidth'


def web_port(server):
    with open(server.log) as f:
        return int(re.search(r'http: .* on tcp:127\.0\.0\.1:(\d+)', f.read()).group(1))


def fill(server):
    """Objects in RAM and on flash, a hot key, and misses of several kinds."""
    with server.connect() as sock:
        file = sock.makefile('rb')

        def talk(*requests):
            for i in range(0, len(requests), 100):
                sock.sendall(b''.join(r + b'\r\n' for r in requests[i:i + 100]) + b'mn\r\n')
                for line in iter(file.readline, b'MN\r\n'):
                    assert line, 'closed'
        talk(*(b'set user:%d 0 0 3000 noreply\r\n%s' % (i, b'x' * 3000) for i in range(9000)))
        talk(*(b'get session:<b>hot</b> user:%d' % (i * 7 % 9000) for i in range(2500)))
        talk(b'set session:<b>hot</b> 0 0 1\r\nx', *[b'get session:<b>hot</b>'] * 500)
        talk(b'delete user:8999', *[b'get user:8999'] * 100)


def canvas_is_drawn(page, selector):
    """Has the canvas more than one colour?"""
    return page.evaluate('''(() => { const c = document.querySelector(%r);
        const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
        return new Set(d).size > 1; })()''' % selector)


def shot(page, name):
    if SHOTS:
        page.screenshot(os.path.join(SHOTS, name + '.png'))


def look(page, server, url, name, width, height, **how):
    page.open(url, width, height, **how)
    expect('%s: it comes up' % name, page.wait_for(READY), page.console)
    told, stats = page.evaluate(SENTENCES), server.stats()
    gets = int(stats['get_hits']) + int(stats['get_misses'])
    expect('%s: four sentences' % name, len(told) == 4, told)
    expect('%s: serving' % name, told[0].startswith('Serving. Up for '), told[0])
    expect('%s: hits' % name, told[1].startswith('%.0f%% of gets hit: ' % (100 * int(stats['get_hits']) / gets)) and
           told[1].endswith(' on flash.'), (told[1], stats['get_hits'], gets))
    expect('%s: misses' % name, 'were never stored' in told[2] and 'had been deleted' in told[2], told[2])
    expect('%s: endurance' % name, told[3].startswith('Flash'), told[3])
    for tier in ('ram', 'flash', 'miss'):
        expect('%s: latency of %s' % (name, tier), canvas_is_drawn(page, '[data-tier=%s] canvas' % tier))
    expect('%s: pages' % name, canvas_is_drawn(page, '.device canvas'))
    expect('%s: not too wide' % name, page.evaluate(TOO_WIDE) <= 0, page.evaluate(TOO_WIDE))
    expect('%s: RAM' % name, 'of it in use' in page.evaluate('document.getElementById("ram").textContent'))
    expect('%s: the hot key' % name, 'session:<b>hot</b>' in page.evaluate('document.getElementById("top").textContent'),
           page.evaluate('document.getElementById("top").textContent'))
    expect('%s: it stays text' % name, page.evaluate('document.querySelectorAll("#top b").length') == 0)
    shot(page, name)


def the_page_on_a_desk_and_on_a_phone():
    flags = ['-m', '16', '-o', 'http=127.0.0.1:0,ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2']
    with servers.Server(BINARY, flags, 'page', tcp=True) as server, browser.Browser() as page:
        fill(server)
        url = 'http://127.0.0.1:%d/' % web_port(server)
        look(page, server, url, 'desk', 1280, 900)
        look(page, server, url, 'phone', 390, 844, mobile=True)
        look(page, server, url, 'dark', 1280, 900, dark=True)
        # it updates itself: new requests show without a reload
        before = page.evaluate(SENTENCES)
        with server.connect() as sock:
            sock.sendall(b'get none\r\n' * 5000 + b'mn\r\n')
            while not sock.recv(65536).endswith(b'MN\r\n'):
                pass
        expect('it lives', page.wait_for('(%s)[1] !== %r' % (SENTENCES, before[1])), before)
        expect('the console stays empty', page.console == [], page.console)
        server.process.terminate()
        expect('the end', wait_for(lambda: server.process.poll() is not None))
        expect('it says that nobody answers',
               page.wait_for('(%s)[0].startsWith("Not answering")' % SENTENCES), page.evaluate(SENTENCES))
        shot(page, 'gone')


def without_flash_and_before_the_first_get():
    with servers.Server(BINARY, ['-o', 'http=127.0.0.1:0'], 'page') as server, browser.Browser() as page:
        page.open('http://127.0.0.1:%d/' % web_port(server), 390, 844, mobile=True)
        expect('it comes up', page.wait_for(READY), page.console)
        told = page.evaluate(SENTENCES)
        expect('sentences', told[1:] == ['Nothing was asked for yet.', 'No get has missed.',
                                         'There is no flash: what RAM has no room for is evicted.'], told)
        expect('not too wide', page.evaluate(TOO_WIDE) <= 0)
        shot(page, 'empty')


if __name__ == '__main__':
    if not shutil.which('chromium'):
        print('no chromium')
        sys.exit(77)
    sys.exit(servers.run_scenarios((the_page_on_a_desk_and_on_a_phone, without_flash_and_before_the_first_get)))
