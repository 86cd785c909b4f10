"""What Silverback repairs in kong-pdk for Python, while it runs; its files stay as they are.

- A handler that raises, or calls sys.exit, is a failed event: the answer to the call of the gateway is an error.
- No lock is held while plugin code runs (handlers, constructors): a handler delays no other.
- An event that the gateway gave up (StepError, or the end of its connection) is released: its next PDK call, and
  every one after it, raises Released, which `except Exception` does not catch. The same goes for calls after
  kong.response.exit. So no thread waits for ever, and no entry stays behind.
- Text that is not UTF-8 arrives with replacement characters. What cannot be sent is an error of the call that sent it.
- Answers are written whole: under gevent, send() takes what fits.
"""
import os
import re
import sys
import threading
import traceback

import msgpack

try:
    from queue import SimpleQueue as _Queue
except ImportError:  # Python 3.6
    from queue import Queue as _Queue

TERMINAL = ("kong.response.exit", "kong.response.error")
_CAMEL = re.compile("([a-z])([A-Z])")


class Released(BaseException):
    """The event of this handler is over: the gateway has answered its request already."""


class Failed(Exception):
    """The handler did not run to its end."""


# What comes out of a handler: a call (packed), the end, or a failure.
CALL, TERMINAL_CALL, END, FAILURE = range(4)


class Channel(object):
    """What the PDK of kong-pdk puts its calls in, and gets results from. `send` and `receive` lead to the server."""

    def __init__(self, send, receive):
        self._send = send
        self._receive = receive
        self._over = None

    def put(self, call):
        if self._over is not None:
            raise Released(self._over)
        # an error here is one of this call: the plugin sees it where it made the call
        packed = msgpack.packb(call, use_bin_type=True)
        if call.get("Method") in TERMINAL:
            self._over = "the request has ended"
            self._send((TERMINAL_CALL, packed))
        else:
            self._send((CALL, packed))

    def get(self):
        if self._over is not None:  # after a terminal call, to which there is no answer
            return None, None
        result, released = self._receive()
        if released is not None:
            self._over = released
            raise Released(released)
        return result, None

    def run(self, handler, pdk):
        """Runs a handler, and tells how it ended."""
        try:
            handler(pdk(self).kong)
        except Released:
            self._finish(END, None)
        except BaseException as error:  # sys.exit ends the event too, not the process of all others
            traceback.print_exc()
            sys.stderr.flush()
            self._finish(FAILURE, "its handler raised %s: %s" % (type(error).__name__, error))
        else:
            self._finish(END, None)

    def _finish(self, how, text):
        try:
            self._send((how, text))
        except (OSError, ValueError):  # nobody is there to be told
            pass


class LocalEvent(object):
    """An event whose handler runs in a thread or greenlet of this process."""

    def __init__(self, queue):
        self._out, self._in = queue(), queue()
        self.channel = Channel(self._out.put, self._in.get)

    def next(self):
        return self._out.get()

    def step(self, result):
        self._in.put((result, None))

    def release(self, why):
        self._in.put((None, why))


class RemoteEvent(object):
    """An event whose handler runs in a process of the pool."""

    def __init__(self, pool):
        from multiprocessing import Pipe
        from multiprocessing.reduction import ForkingPickler

        self._pool = pool
        self._pids = self._workers()
        self._pipe, theirs = Pipe(duplex=True)
        self.address = bytes(ForkingPickler.dumps(theirs))
        theirs.close()
        self._error = None
        self._worker = None
        self._later = None  # a task that was submitted after this one
        self._looks = 0

    def submitted(self, error):
        """The pool could not run it."""
        self._error = error

    def next(self):
        try:
            while True:
                while not self._pipe.poll(0.2):
                    if self._error is not None:
                        return FAILURE, "its handler cannot be run: %s" % (self._error,)
                    if self._worker is None:
                        if self._is_lost():
                            self._take_back()
                            return FAILURE, "the process of its handler ended"
                    elif not self._lives(self._worker):
                        if not self._pipe.poll(0):
                            return FAILURE, "the process of its handler ended"
                what = self._pipe.recv()
                if isinstance(what, int):
                    self._worker = what
                else:
                    return what
        except (EOFError, OSError):
            return FAILURE, "the process of its handler ended"

    def _is_lost(self):
        """Whether a worker took it, and ended before it could say so."""
        if self._later is None:
            if self._workers() != self._pids:
                self._later = self._pool.apply_async(_nothing)
            return False
        # tasks are taken in order: when a later one has been done, this one was taken
        if self._later.ready():
            self._looks += 1
        return self._looks > 5

    def _take_back(self):
        """Closes what was meant for the worker; should one still come for it, it does not run the handler."""
        import pickle

        self._pipe.close()
        try:
            pickle.loads(self.address).close()
        except Exception:  # it was taken
            pass

    def _workers(self):
        return set(worker.pid for worker in list(self._pool._pool))

    def _lives(self, pid):
        return any(worker.pid == pid and worker.is_alive() for worker in list(self._pool._pool))

    def step(self, result):
        self._tell((result, None))

    def release(self, why):
        self._tell((None, why))

    def _tell(self, what):
        try:
            self._pipe.send(what)
        except (OSError, ValueError):  # the worker is gone: next() says so
            pass


def _work(handler, address, pdk):
    """Runs a handler in a process of the pool."""
    import pickle

    pipe = pickle.loads(address)

    def receive():
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return None, "the server is gone"

    try:
        pipe.send(os.getpid())
        Channel(pipe.send, receive).run(handler, pdk)
    finally:
        pipe.close()


class _Pdk(object):
    """Makes the `kong` of a handler; can be sent to another process."""

    def __init__(self, kong, style):
        self.kong = kong
        self.style = style

    def __call__(self, channel):
        return self.kong(channel, *self.style)


def _nothing():
    pass


class Reply(object):
    """An answer to HandleEvent or Step whose data is packed already."""

    def __init__(self, event, packed):
        self.event = event
        self.packed = packed


_RET = msgpack.packb("ret", use_bin_type=True)


def repair(server):
    """Repairs kong-pdk, whose module `server` has just been loaded. Raises if it is not as known."""
    from kong_pdk import const, listener, pdk

    _check(server, listener, pdk)
    _repair_server(server, pdk)
    _repair_listener(server, listener)
    sys.stderr.write("INFO repair: kong-pdk %s is repaired\n" % (const.__version__,))


def _check(server, listener, pdk):
    """The release must have all that is built on here."""

    def need(holds, what):
        if not holds:
            raise RuntimeError("this release has another shape (%s)" % what)

    plugin_server = server.PluginServer
    for name in ("handle_event", "_step", "step", "step_error", "start_instance"):
        need(callable(getattr(plugin_server, name, None)), "PluginServer." + name)
    names = plugin_server.__init__.__code__.co_names
    for name in ("plugins", "instances", "instance_id", "i_lock", "events", "event_id", "e_lock", "logger"):
        need(name in names, "PluginServer()." + name)
    for name in ("use_multiprocess", "use_gevent"):
        need(name in names, "PluginServer()." + name)
    need(getattr(server, "MSG_RET", None) == "ret", "MSG_RET")
    handle = listener.Server.handle.__code__
    need(handle.co_varnames[:3] == ("self", "fd", "address"), "Server.handle")
    need("ps" in listener.Server.__init__.__code__.co_names, "Server().ps")
    kong = pdk.Kong.__init__.__code__
    need(kong.co_varnames[:2] == ("self", "ch"), "Kong()")
    need(pdk.rpc_of.__code__.co_varnames[:1] == ("ch",), "rpc_of")


def _repair_server(server, pdk):
    Unknown = server.PluginServerException
    plugin_server = server.PluginServer
    styled = "lua_style" in pdk.Kong.__init__.__code__.co_varnames

    def begin(self, handler):
        make = _Pdk(pdk.Kong, (self.lua_style,) if styled else ())
        if self.use_multiprocess:
            event = RemoteEvent(self._process_pool)
            self._process_pool.apply_async(
                _work, (handler, event.address, make), error_callback=event.submitted
            )
        elif self.use_gevent:
            from gevent import spawn
            from gevent.queue import Queue

            event = LocalEvent(Queue)
            spawn(event.channel.run, handler, make)
        else:
            event = LocalEvent(_Queue)
            thread = threading.Thread(target=event.channel.run, args=(handler, make))
            thread.daemon = True
            thread.start()
        return event

    def go_on(self, eid, event):
        """Waits for what the handler does next."""
        what, data = event.next()
        if what == CALL:
            self.events[eid] = event
            return Reply(eid, data)
        self.events.pop(eid, None)
        if what == TERMINAL_CALL:
            return Reply(eid, data)
        if what == FAILURE:
            raise Failed(data)
        return Reply(eid, _RET)

    def handle_event(self, event):
        iid, phase = event["InstanceId"], event["EventName"]
        instance = self.instances.get(iid)
        if instance is None:
            if self.use_multiprocess:
                # the gateway asks so whether the server is alive: it is not, if all of the pool hangs
                self._process_pool.apply(_nothing)
            raise Unknown("no plugin instance #%s" % (iid,))
        instance.reset_expire_ts()
        handler = getattr(instance.cls, phase)
        with self.e_lock:
            eid = self.event_id
            self.event_id = eid + 1
        return go_on(self, eid, begin(self, handler))

    def step(self, data, is_error):
        eid = data["EventId"]
        event = self.events.pop(eid, None)
        if event is None:
            raise Unknown("event id %s not found" % (eid,))
        if is_error:
            event.release(str(data.get("Data") or "released"))
        else:
            event.step(data.get("Data"))
        return go_on(self, eid, event)

    def start_instance(self, cfg):
        import json
        import time

        name = cfg["Name"]
        if name not in self.plugins:
            raise Unknown("%s not initizlied" % (name,))
        config = json.loads(cfg["Config"])
        with self.i_lock:
            iid = self.instance_id
            self.instance_id = iid + 1
        self.instances[iid] = self.plugins[name].new(config)
        self.logger.info("instance #%d of %s started" % (iid, name))
        return {"Name": name, "Id": iid, "Config": config, "StartTime": time.time()}

    plugin_server.handle_event = handle_event
    plugin_server._step = step
    plugin_server.start_instance = start_instance


def _repair_listener(server, listener):
    def handle(self, fd, address, *_):
        unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=False, unicode_errors="replace", max_buffer_size=2**31 - 1
        )
        waiting = set()  # events whose handler waits for a step from this connection
        try:
            while True:
                chunk = fd.recv(65536)
                if not chunk:
                    return
                unpacker.feed(chunk)
                for message in unpacker:
                    fd.sendall(_answer(self, message, waiting))
        except OSError:
            pass  # the gateway is gone, or has no more use for this connection
        except Exception as error:
            self.logger.error("rpc: the connection is closed: %s: %s" % (type(error).__name__, error))
        finally:
            for eid in waiting:
                event = self.ps.events.pop(eid, None)
                if event is not None:
                    event.release("the connection of its event has ended")

    def _answer(self, message, waiting):
        _, msgid, method, args = message
        try:
            namespace, _, command = str(method).partition(".")
            if namespace != "plugin" or not command or not command.isalnum():
                return _packed_error(msgid, "RPC for %s is not supported" % (method,))
            name = command[0].lower() + _CAMEL.sub(lambda m: m.group(1) + "_" + m.group(2).lower(), command[1:])
            result = getattr(self.ps, name)(*args)
        except Exception as error:
            if isinstance(error, (Failed, server.PluginServerException)):
                self.logger.warn("rpc: #%s error: %s" % (msgid, error))
            else:
                self.logger.error("rpc: #%s exception: %s" % (msgid, traceback.format_exc()))
            if isinstance(args, (list, tuple)) and args and isinstance(args[0], dict):
                waiting.discard(args[0].get("EventId"))
            return _packed_error(msgid, str(error) or type(error).__name__)
        if not isinstance(result, Reply):
            return msgpack.packb([1, msgid, None, result], use_bin_type=True)
        if result.event in self.ps.events:
            waiting.add(result.event)
        else:
            waiting.discard(result.event)
        packer = msgpack.Packer(use_bin_type=True)
        return b"".join((
            packer.pack_array_header(4), packer.pack(1), packer.pack(msgid), packer.pack(None),
            packer.pack_map_header(2), packer.pack("Data"), result.packed, packer.pack("EventId"), packer.pack(result.event),
        ))

    listener.Server.handle = handle


def _packed_error(msgid, text):
    return msgpack.packb([1, msgid, text.encode("utf-8", "replace").decode("utf-8"), None], use_bin_type=True)
