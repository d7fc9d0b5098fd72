// Reads the bucket tokens with nats.js, told nothing but where and who: kv.mjs <url> <key>.
// A line for each step: its name, "ok" or "refused", what came.
import { connect } from "@nats-io/transport-node";
import { Kvm } from "@nats-io/kv";

const [url, key] = process.argv.slice(2);
const { host, username, password } = new URL(url); // nats.js takes no user out of a URL
const nc = await connect({ servers: host, user: username, pass: password, timeout: 60_000 });
const text = (entry) => new TextDecoder().decode(entry.value);
const all = async (entries) => {
  const out = [];
  for await (const e of entries) out.push(e);
  return out;
};
const step = async (name, what) => {
  try {
    console.log([name, "ok", (await what()) ?? ""].join("\t"));
  } catch (err) {
    console.log([name, "refused", `${err.name}: ${err.message}`].join("\t"));
  }
};

const kvm = new Kvm(nc);
const kv = await kvm.open("tokens");
await step("get", async () => text(await kv.get(key)));
await step("revision", async () => text(await kv.get(key, { revision: (await kv.get(key)).revision })));
await step("get direct", async () => text(await (await kvm.open("tokens", { allow_direct: true })).get(key)));
await step("get created", async () => text(await (await kvm.create("tokens")).get(key)));
await step("keys", async () => (await all(await kv.keys())).join(" "));
await step("keys of two", async () => (await all(await kv.keys(["component.>", key]))).join(" "));
await step("history", async () => (await all(await kv.history({ key }))).map(text).join(" "));
await step("watch of two", async () => {
  for await (const e of await kv.watch({ key: ["component.>", key] })) return text(e);
});
await step("put", () => kv.put(key, "mine"));
await step("delete", () => kv.delete(key));
const watch = (await kv.watch({ key }))[Symbol.asyncIterator]();
await step("watch", async () => text((await watch.next()).value));
await step("next", async () => text((await watch.next()).value));
await nc.close();
