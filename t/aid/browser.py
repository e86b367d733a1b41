"""A headless Chromium, spoken to over its debugging pipe: no ports, no other programs.

Use as a context manager; each call waits until the browser has answered.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

import servers


class Browser:
    def __init__(self, binary='chromium'):
        self.dir = tempfile.mkdtemp(prefix='extant-browser.')
        to_browser, self.write_fd = os.pipe()
        self.read_fd, from_browser = os.pipe()
        command = [binary, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
                   '--no-first-run', '--disable-extensions', '--disable-background-networking',
                   '--hide-scrollbars', '--user-data-dir=' + self.dir, '--remote-debugging-pipe', 'about:blank']

        def take_pipes():  # it expects them as 3 and 4
            os.dup2(to_browser, 100)
            os.dup2(from_browser, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, preexec_fn=take_pipes, close_fds=False)
        os.close(to_browser)
        os.close(from_browser)
        self.next_id, self.buffer, self.session, self.console = 0, b'', None, []
        page = next(t for t in self.call('Target.getTargets')['targetInfos'] if t['type'] == 'page')
        self.session = self.call('Target.attachToTarget', targetId=page['targetId'], flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.call(domain + '.enable')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.write_fd)
        os.close(self.read_fd)
        shutil.rmtree(self.dir, ignore_errors=True)

    def message(self):
        while b'\0' not in self.buffer:
            piece = os.read(self.read_fd, 1 << 20)
            if not piece:
                raise RuntimeError('the browser has ended')
            self.buffer += piece
        text, _, self.buffer = self.buffer.partition(b'\0')
        return json.loads(text)

    def call(self, method, **params):
        self.next_id += 1
        request = {'id': self.next_id, 'method': method, 'params': params}
        if self.session:
            request['sessionId'] = self.session
        os.write(self.write_fd, json.dumps(request).encode() + b'\0')
        while True:
            answer = self.message()
            if answer.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
                self.console.append(answer['params'])
            if answer.get('id') == self.next_id:
                if 'error' in answer:
                    raise RuntimeError('%s: %s' % (method, answer['error']))
                return answer['result']

    def evaluate(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        return result['result'].get('value')

    def wait_for(self, expression, seconds=servers.PATIENCE_SECONDS):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.evaluate(expression):
                return True
            time.sleep(0.05)
        return False

    def open(self, url, width, height, mobile=False, dark=False):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=2 if mobile else 1, mobile=mobile)
        self.call('Emulation.setEmulatedMedia',
                  features=[{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
        self.call('Page.navigate', url=url)

    def screenshot(self, path):
        """Of the whole page."""
        data = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=True)['data']
        with open(path, 'wb') as f:
            f.write(base64.b64decode(data))
