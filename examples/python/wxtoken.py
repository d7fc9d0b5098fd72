"""What a service does with wxtoken, over NATS only. README.md says how to run it."""
import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree

import nats
from nats.errors import TimeoutError
from nats.js.api import ConsumerConfig
from nats.js.errors import KeyNotFoundError

# Without variables: the user and the account of wxtoken --sim.
user = os.environ.get("NATS_USER", "service")
key = os.environ.get("WXTOKEN_KEY", "authorizer.wxc0ffee0000000001.wxa000000000000001")
_, component, appid = key.split(".")
name = "example-python-" + appid  # of queue group and durable consumer: the same in all instances


async def log(error):
    print("nats:", error, file=sys.stderr)


async def connect():
    return await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
        user=user,
        password=os.environ.get("NATS_PASSWORD", "service"),
        inbox_prefix=b"_INBOX_" + user.encode(),  # the only place where this user may receive answers
        max_reconnect_attempts=-1,  # without it: sixty tries
        error_cb=log,  # a wrong password is one too, and is tried again
    )


def show(entry):
    """Prints what may be logged. json.loads(entry.value)["value"] is what goes into access_token=."""
    if entry.operation:
        return print(key, "was cancelled")
    token = json.loads(entry.value)
    digest = hashlib.sha256(token["value"].encode()).hexdigest()[:16]
    print(f"{key} generation={token['generation']} expires_at={token['expires_at']} sha256={digest}")


async def token(nc):
    """Reads the token once: for a script. Without one: KeyNotFoundError."""
    kv = await nc.jetstream().key_value("tokens")
    show(await kv.get(key))


async def follow(nc):
    """Keeps the token in memory: for a long-running process.

    The watch brings the current token, then each new one. It may be silent after a backup was restored, so a token
    that has expired is asked for.
    """
    kv = await nc.jetstream().key_value("tokens")
    watch = await kv.watch(key)
    entry = None
    while True:
        try:
            news = await watch.updates(timeout=5)
        except TimeoutError:
            if not entry or entry.operation or lives(entry):
                continue
            news = await kv.get(key)
        if news:  # None: that was all there is now
            entry = news
            show(entry)


def lives(entry):
    expires_at = json.loads(entry.value)["expires_at"]
    return datetime.fromisoformat(expires_at[:19] + "+00:00") > datetime.now(timezone.utc)


async def report(nc):
    """WeChat answered 40001, 40014 or 42001 to a call with this token: report it, repeat the call with the next one."""
    kv = await nc.jetstream().key_value("tokens")
    refused = await kv.get(key)
    question = json.dumps({"key": key, "revision": refused.revision})
    answer = json.loads((await nc.request("wxtoken.reject", question.encode(), timeout=10)).data)
    if "error" in answer:
        sys.exit(answer["error"]["description"])
    print("outcome:", answer["outcome"])
    if answer["outcome"] not in ("renewing", "already_renewed"):
        return  # too_soon, unknown_key: there is no other
    watch = await kv.watch(key)
    show(await asyncio.wait_for(newer(watch, refused.revision), 30))


async def newer(watch, revision):
    async for entry in watch:
        if entry and entry.revision > revision:
            return entry


async def messages(nc):
    """Consumes the account's messages and events.

    The durable consumer remembers what was acked, for all instances together; a message that is not acked within 30 s
    is delivered again. This user can't remove the consumer: the server removes it after a week without use.
    """
    js = nc.jetstream()
    subject = f"wechat.message.{component}.{appid}.>"
    config = ConsumerConfig(inactive_threshold=timedelta(days=7).total_seconds())
    sub = await js.pull_subscribe(subject, durable=name, stream="MESSAGES", config=config)
    while True:
        try:
            batch = await sub.fetch(10, timeout=30)
        except TimeoutError:
            continue  # none came
        for m in batch:
            print(m.subject, m.headers["ce-id"], len(m.data), "bytes")
            await m.ack()  # when the work is done


async def reply(nc):
    """Replies to text messages at once (passive reply), within four seconds."""
    questions = await nc.subscribe(f"wechat.reply.{component}.{appid}.>", queue=name)
    await nc.flush()
    print("listening on", questions.subject)
    async for m in questions.messages:
        await m.respond(answer(m.data).encode())  # "": no reply
        print("replied to", m.subject)


def answer(document):
    try:
        message = parse(document)
        return text(message, f"you said: {message['Content']}") if message["MsgType"] == "text" else ""
    except (KeyError, ValueError, ElementTree.ParseError):
        return ""  # users write anything: docs/contract.md, "Odd documents"


def parse(document):
    """Reads the fields of a document, XML or JSON as the component is set up."""
    if document.startswith(b"{"):
        return {"json": True, **json.loads(document)}
    return {element.tag: element.text or "" for element in ElementTree.fromstring(document)}


def text(message, content):
    """Makes a reply in the form of the message."""
    reply = {
        "ToUserName": message["FromUserName"],
        "FromUserName": message["ToUserName"],
        "CreateTime": int(time.time()),
        "MsgType": "text",
        "Content": content,
    }
    if "json" in message:
        return json.dumps(reply, ensure_ascii=False)
    xml = ElementTree.Element("xml")
    for field, value in reply.items():
        ElementTree.SubElement(xml, field).text = str(value)
    return ElementTree.tostring(xml, encoding="unicode")


async def main(command):
    nc = await connect()
    work = asyncio.create_task(command(nc))
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass
    except KeyNotFoundError:
        sys.exit(f"{key} has no token: not authorized, or cancelled")
    finally:
        await nc.drain()


if __name__ == "__main__":
    commands = {command.__name__: command for command in (token, follow, report, messages, reply)}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit("usage: python3 wxtoken.py " + "|".join(commands))
    sys.stdout.reconfigure(line_buffering=True)
    asyncio.run(main(commands[sys.argv[1]]))
