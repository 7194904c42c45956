# What FOLDER/bin/python runs (tools/warm.py writes REAL, SOCKET, PREFIXES, ENV, ADDED, LIMITS and
# IMPORTED above): asks the server for a child, passes signals on to it, and ends as it ends.
import os
import resource
import signal
import socket
import struct
import sys

PASSED = 'SIGINT SIGTERM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCONT'.split()


def cold(words):
    os.execv(REAL, [REAL, *words])  # noqa: F821


def parsed(words):
    "(kind, words of the program), or None: not for a fork"
    words = list(words)
    while words and words[0].startswith('-') and words[0] not in ('-c', '-m'):
        if words.pop(0) not in ('-u', '-Xfrozen_modules=off'):
            return None
    if not words or (words[0] in ('-c', '-m') and len(words) < 2):
        return None
    return words[0] if words[0] in ('-c', '-m') else '', words


def is_plain():
    "Whether a fork of the server shows what the real Python would"
    env = {k: v for k, v in os.environ.items() if ADDED.get(k) != v}  # noqa: F821
    known = {k: v for k, v in env.items() if k.startswith(PREFIXES)}  # noqa: F821
    if known.pop('PYTHONPATH', '') != ENV.get('PYTHONPATH', '') and not more_folders():  # noqa: F821
        return False
    same = {k: v for k, v in ENV.items() if k != 'PYTHONPATH'}  # noqa: F821
    limits = [resource.getrlimit(getattr(resource, n)) for n in ('RLIMIT_AS', 'RLIMIT_FSIZE')]
    more = {f for f in os.listdir('/proc/self/fd') if int(f) > 2 and is_open(int(f))}
    return known == same and limits == LIMITS and not more  # noqa: F821


def more_folders():
    "Folders that PYTHONPATH names before those of the server; none where they hold what it imported"
    known, path = ENV.get('PYTHONPATH', ''), os.environ.get('PYTHONPATH', '')  # noqa: F821
    if path == known or (known and not path.endswith(os.pathsep + known)):
        return []
    folders = path.removesuffix(os.pathsep + known if known else '').split(os.pathsep)
    folders = [os.path.abspath(f) for f in folders]
    names = {n.split('.')[0] for f in folders if os.path.isdir(f) for n in os.listdir(f)}
    return [] if names & IMPORTED else folders  # noqa: F821


def is_open(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def ask(kind, words):
    "Connection to the server, and the child's number"
    import json

    umask = os.umask(0)
    os.umask(umask)
    ignored = [s for s in PASSED if signal.getsignal(getattr(signal, s)) == signal.SIG_IGN]
    about = dict(kind=kind, words=words, env=dict(os.environ), cwd=os.getcwd())
    about |= dict(umask=umask, ignored=ignored, folders=more_folders())
    body = json.dumps(about).encode()
    server = socket.socket(socket.AF_UNIX)
    server.connect(SOCKET)  # noqa: F821
    socket.send_fds(server, [struct.pack('I', len(body))], [0, 1, 2])
    server.sendall(body)
    return server, ignored


def wait(server, form):
    """What the server says next; a kernel also ends when who started it has ended

    It wakes twice a second: a signal that came just before it began to wait is passed on then.
    """
    parent, size = os.getppid(), struct.calcsize(form)
    server.settimeout(0.5)
    said = b''
    while len(said) < size:
        try:
            more = server.recv(size - len(said))
        except TimeoutError:
            if 'JPY_PARENT_PID' in os.environ and os.getppid() != parent:
                os._exit(1)
            continue
        if not more:
            sys.stderr.write('the server of tools/warm.py has ended\n')
            os._exit(70)
        said += more
    return struct.unpack(form, said)


def end(status, seconds):
    "End as the child has ended; its seconds of a processor go to the file that WARM_SECONDS names"
    if 'WARM_SECONDS' in os.environ:
        with open(os.environ['WARM_SECONDS'], 'a') as f:
            f.write(f'{seconds:.3f}\n')
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def main(words):
    found = None if os.environ.get('COLD_PYTHON') else parsed(words)
    if found is None or not is_plain():
        cold(words)
    numbers = [getattr(signal, s) for s in PASSED]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until there is a child to pass them to
    server, ignored = ask(*found)
    (pid,) = wait(server, 'i')
    for s in PASSED:
        if s not in ignored:
            signal.signal(getattr(signal, s), lambda n, _: os.kill(pid, n))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    end(*wait(server, 'id'))


main(sys.argv[1:])
