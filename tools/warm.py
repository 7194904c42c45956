"""`python tools/warm.py FOLDER`: FOLDER/bin/python starts in a tenth of a second, heavy imports done.

One process imports PyTorch, MONAI and others, runs nothing with them, and forks at each start of
FOLDER/bin/python: a process of its own, with the words, environment, folder and open files of the
caller, which passes signals on and ends as the child ends. So do the scripts beside the real Python,
`mri-diffusion` among them. What a fork could not show rightly (other flags, a PYTHONPATH that hides an
import, other numbers of threads, further open files) is started by the real Python,
and so is everything where COLD_PYTHON is set. `tools/run_tests.py` runs pages and tests with it.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import re
import resource
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import types
from pathlib import Path

HEAVY = """torch torch._dynamo monai.networks.nets monai.inferers accelerate safetensors.torch
matplotlib.pyplot pandas scipy.ndimage scipy.signal scipy.stats nibabel skimage.metrics tqdm.auto
IPython ipykernel.ipkernel ipykernel.kernelapp ipykernel.zmqshell papermill nbdev.test
execnb.shell""".split()
# Read when a process or a library starts: where one of these differs, the real Python is started
AT_START = """OMP_ MKL_ OPENBLAS_ KMP_ NUMEXPR_ PYTHON LD_ LC_ LANG HOME XDG_ MPLCONFIGDIR TORCH_LOGS CUDA_
COVERAGE_ TQDM_""".split()
SHIM = Path(__file__).with_name('warm_start.py')


def at_start(env):
    "What of an environment is read when a process starts"
    return {k: v for k, v in env.items() if k.startswith(tuple(AT_START))}


def write_command(path, p):
    "At `path` what the file `p` beside the real python is; a script of it starts by the quick one"
    with p.open('rb') as f:
        first = f.readline()
        if re.fullmatch(rb'#!' + re.escape(f'{p.parent}/python'.encode()) + rb'[\d.]*\n', first):
            path.write_bytes(f'#!{path.parent}/python\n'.encode() + f.read())
            path.chmod(0o755)
        else:
            path.symlink_to(p)


def write_folder(folder, env):
    "FOLDER/bin: the quick python, and everything else that lies beside the real one"
    (folder / 'bin').mkdir()
    for p in Path(sys.executable).parent.iterdir():
        if p.is_file() and not p.name.startswith('python'):
            write_command(folder / 'bin' / p.name, p)
    known = dict(
        REAL=sys.executable,
        SOCKET=str(folder / 'socket'),
        PREFIXES=tuple(AT_START),
        ENV=at_start(env),
        ADDED={k: v for k, v in os.environ.items() if k not in env},
        LIMITS=[resource.getrlimit(getattr(resource, n)) for n in ('RLIMIT_AS', 'RLIMIT_FSIZE')],
        IMPORTED={'sitecustomize', 'usercustomize', *(m.split('.')[0] for m in sys.modules)},
    )
    values = ''.join(f'{k} = {v!r}\n' for k, v in known.items())
    text = f'#!{sys.executable} -IS\n{values}{SHIM.read_text(encoding="utf-8")}'
    for name in ('python', 'python3'):
        path = folder / 'bin' / f'.{name}'
        path.write_text(text, encoding='utf-8')
        path.chmod(0o755)
        path.rename(path.with_name(name))


def receive(connection):
    "The request of a start (a dict), and its stdin, stdout and stderr"
    head, fds, _, _ = socket.recv_fds(connection, 4, 3)
    size, body = struct.unpack('I', head)[0], b''
    while len(body) < size:
        more = connection.recv(size - len(body))
        if not more:
            raise ConnectionError('a start was broken off')
        body += more
    return json.loads(body), fds


class Server:
    "Forks at each request; tells the caller the child's number, and how it ended"

    def __init__(self, path):
        self.children, self.select = {}, selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.woken, self.wake = socket.socketpair()
        self.woken.setblocking(False)
        self.wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)
        for s in (self.listener, self.woken):
            self.select.register(s, selectors.EVENT_READ)

    def serve(self):
        "Never returns in the server; in a child: its request and files"
        while True:
            for key, _ in self.select.select():
                if key.fileobj is self.listener:
                    found = self.start(self.listener.accept()[0])
                    if found:
                        return found
                elif key.fileobj is self.woken:
                    self.woken.recv(4096)
                    self.reap()
                else:
                    self.gone(key.fileobj)

    def start(self, connection):
        "Fork; None in the server"
        try:
            request, fds = receive(connection)
        except (OSError, struct.error, ValueError):
            return connection.close()
        pid = os.fork()
        if pid == 0:
            self.leave(connection)
            return request, fds
        for fd in fds:
            os.close(fd)
        self.children[pid] = connection
        self.select.register(connection, selectors.EVENT_READ)
        return self.tell(connection, struct.pack('i', pid))

    def leave(self, connection):
        "Close in a child what is the server's; handle signals as a new process does"
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for s in (connection, self.listener, self.woken, self.wake, *self.children.values()):
            s.close()
        self.select.close()

    def reap(self):
        while self.children:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            connection = self.children.pop(pid)
            self.tell(connection, struct.pack('id', status, used.ru_utime + used.ru_stime))
            with contextlib.suppress(KeyError):  # its caller was killed before
                self.select.unregister(connection)
            connection.close()

    def gone(self, connection):
        "The caller was killed: so is its child"
        self.select.unregister(connection)
        for pid, known in self.children.items():
            if known is connection:
                os.kill(pid, signal.SIGKILL)

    def tell(self, connection, what):
        with contextlib.suppress(OSError):
            connection.sendall(what)


def take_over(request, fds):
    "Make this child what the caller asked for: files, environment, folder, signals, a session"
    os.setsid()  # what the caller's terminal or group gets comes by the caller alone
    for fd, to in zip(fds, (0, 1, 2)):
        os.dup2(fd, to)
    os.closerange(3, max(fds) + 1)
    os.umask(request['umask'])
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(request['env'])
    sys.path[1:1] = request['folders']
    for s in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'):
        usual = signal.default_int_handler if s == 'SIGINT' else signal.SIG_DFL
        ignored = s in request['ignored']
        signal.signal(getattr(signal, s), signal.SIG_IGN if ignored else usual)


def renew():
    "What the imports took from the time of the server, anew: streams, randomness, folders"
    for fd, name in enumerate(('stdin', 'stdout', 'stderr')):
        old = getattr(sys, name)
        how = dict(encoding=old.encoding, errors=old.errors, closefd=False)
        new = open(fd, 'w' if fd else 'r', **how)  # noqa: SIM115
        if fd:
            new.reconfigure(line_buffering=fd == 2 or new.isatty())
        setattr(sys, name, new)
        setattr(sys, f'__{name}__', new)
    random.seed()
    sys.modules['numpy'].random.seed()
    sys.modules['torch'].default_generator.seed()
    tempfile.tempdir = None
    if os.environ.get('MPLBACKEND'):
        sys.modules['matplotlib'].rcParams['backend'] = os.environ['MPLBACKEND']


def run(kind, words):
    "Run the program as `python` would: -c CODE, -m MODULE, or a file"
    main = sys.modules['__main__'] = types.ModuleType('__main__')
    main.__dict__['__builtins__'] = sys.modules['builtins']
    first = (
        '' if kind == '-c' else os.getcwd() if kind else os.path.dirname(os.path.realpath(words[0]))
    )
    sys.path[0] = first
    sys.argv = ['-c', *words[2:]] if kind == '-c' else words[1:] if kind else words
    importlib.invalidate_caches()
    if kind == '-m':
        runpy._run_module_as_main(words[1])
        return
    if not kind:
        main.__file__ = words[0]
    code = words[1] if kind else Path(words[0]).read_bytes()
    exec(compile(code, '<string>' if kind else words[0], 'exec'), main.__dict__)


def main(folder):
    before = dict(os.environ)
    for name in HEAVY:
        importlib.import_module(name)
    threads = len(os.listdir('/proc/self/task'))
    if threads > 1:
        sys.exit(f'warm.py: {threads} threads run after the imports; a fork would lose them')
    folder.mkdir(parents=True)
    server = Server(str(folder / 'socket'))
    write_folder(folder, before)
    gc.collect()
    gc.freeze()  # so that a child's collections leave the shared pages alone
    request, fds = server.serve()
    added = {k: v for k, v in os.environ.items() if k not in before}
    take_over(request | dict(env=added | request['env']), fds)  # what imports add stays
    renew()
    sys.executable = str(folder / 'bin/python')
    run(request['kind'], request['words'])


if __name__ == '__main__':
    main(Path(sys.argv[1]))
