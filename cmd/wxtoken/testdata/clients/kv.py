"""Reads the bucket tokens with nats.py, told nothing but the URL: kv.py <url> <key>.

A line for each step: its name, "ok" or "refused", what came.
"""
import asyncio
import sys

import nats


async def main(url, key):
    nc = await nats.connect(url)
    kv = await nc.jetstream(timeout=60).key_value("tokens")

    async def step(name, what):
        try:
            value = await what
        except Exception as err:
            print(name, "refused", f"{type(err).__name__}: {err}", sep="\t", flush=True)
        else:
            print(name, "ok", value, sep="\t", flush=True)

    async def get(revision=None):
        return (await kv.get(key, revision=revision)).value.decode()

    async def following(watch):
        return (await watch.updates(timeout=60)).value.decode()

    await step("get", get())
    await step("revision", get((await kv.get(key)).revision))

    async def keys(**only):
        return " ".join(await kv.keys(**only))

    async def history():
        return " ".join(entry.value.decode() for entry in await kv.history(key))

    await step("keys", keys())
    await step("history", history())
    await step("put", kv.put(key, b"mine"))
    await step("delete", kv.delete(key))
    watch = await kv.watch(key)
    await step("watch", following(watch))
    await watch.updates()  # None: that was all there is now
    await step("next", following(watch))
    await watch.stop()
    await nc.close()


asyncio.run(main(*sys.argv[1:]))
