"""Holds idle connections: python3 -m harness.idle_clients KIND PORT COUNT

KIND: http1 (cleartext), tls, http2 (prior knowledge), tls-http2. A process of its own, for its file descriptors. It
opens one connection, makes a request on it and says `ready`; told to go on (a line), it does so with the others and
says how many are open; told to go on again, it ends.
"""

import asyncio
import ssl
import sys

# A client's preface, empty SETTINGS, their acknowledgement, and GET / on stream 1 (":authority: a" as a literal).
HTTP2 = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + b"\0\0\0\x04\0\0\0\0\0"
    + b"\0\0\0\x04\x01\0\0\0\0"
    + b"\0\0\x06\x01\x05\0\0\0\x01"
    + b"\x82\x86\x84\x41\x01a"
)
HTTP1 = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
# How many are opened at a time.
BATCH = 200


async def open_one(kind: str, port: int, number: int, context: ssl.SSLContext | None) -> asyncio.StreamWriter:
    """Connects, makes one request and reads its answer to the end."""
    # One address has too few ports for many connections: clients are spread over 127/8.
    local = (f"127.0.{1 + number // 250 % 250}.{1 + number % 250}", 0)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=local, ssl=context, server_hostname="a.test" if context else None, limit=1024
    )
    if "http2" in kind:
        writer.write(HTTP2)
        answered = False
        while not answered:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            # END_STREAM on HEADERS or DATA of the stream.
            answered = head[3] in (0, 1) and head[4] & 1 == 1 and head[8] == 1
    else:
        writer.write(HTTP1)
        length = 0
        while (line := await reader.readline()) != b"\r\n":
            if not line:
                raise EOFError("closed within an answer")
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
    return writer


async def main(kind: str, port: int, count: int) -> None:
    """Opens the connections, in two steps."""
    context = None
    if "tls" in kind:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2" if "http2" in kind else "http/1.1"])
    writers = [await open_one(kind, port, 0, context)]
    await _told("ready")
    for start in range(1, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        writers += await asyncio.gather(*(open_one(kind, port, number, context) for number in numbers))
    # Time for buffers to be given back, and for a server that closes connections to do so.
    await asyncio.sleep(2)
    await _told(str(sum(1 for writer in writers if not writer.is_closing())))
    for writer in writers:
        writer.transport.abort()


async def _told(text: str) -> None:
    print(text, flush=True)
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
