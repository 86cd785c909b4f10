"""Opens connections to the gateway, makes a request on each, and holds them idle; prints what the gateway's memory grew by.

usage: clients.py PID KIND PORT CONNECTIONS      KIND: http1 (clear text), tls, http2 (prior knowledge), tls-http2
"""
import asyncio
import socket
import ssl
import sys


def resident(pid):
    """Resident memory of a process, bytes."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


# An HTTP/2 client's preface, empty SETTINGS, their acknowledgement, and GET / on stream 1 (":authority: a" as a literal).
HTTP2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + b"\0\0\0\x04\0\0\0\0\0"
    + b"\0\0\0\x04\x01\0\0\0\0"
    + b"\0\0\x06\x01\x05\0\0\0\x01" + b"\x82\x86\x84\x41\x01a"
)
HTTP1 = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def open_one(kind, port, number, context):
    # One address has too few ports for many connections: clients are spread over 127/8.
    local = ("127.0.%d.%d" % (1 + number // 250 % 250, 1 + number % 250), 0)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=local, ssl=context, server_hostname="a.test" if context else None, limit=1024)
    writer.write(HTTP2 if "http2" in kind else HTTP1)
    if "http2" in kind:
        answered = False
        while not answered:
            head = await reader.readexactly(9)
            length = int.from_bytes(head[:3], "big")
            await reader.readexactly(length)
            # END_STREAM on HEADERS or DATA of the stream.
            answered = head[3] in (0, 1) and head[4] & 1 and head[8] == 1
    else:
        length = 0
        while (line := await reader.readline()) != b"\r\n":
            if not line:
                raise EOFError("closed within an answer")
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
    return writer


async def main(pid, kind, port, count):
    context = None
    if "tls" in kind:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2" if "http2" in kind else "http/1.1"])
    writers = [await open_one(kind, port, 0, context)]
    before = resident(pid)
    for start in range(1, count, 200):
        batch = range(start, min(start + 200, count))
        writers += await asyncio.gather(*(open_one(kind, port, number, context) for number in batch))
    await asyncio.sleep(2)
    after = resident(pid)
    alive = sum(1 for writer in writers if not writer.is_closing())
    print(f"{kind}: {alive} idle connections, {(after - before) / count / 1024:.1f} KiB each, "
          f"{after / 2**20:.0f} MiB in all (before: {before / 2**20:.0f})", flush=True)
    for writer in writers:
        writer.get_extra_info("socket")
        writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
