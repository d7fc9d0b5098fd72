// What a service does with wxtoken, over NATS only. README.md says how to run it.
import { createHash } from "node:crypto";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect, nanos } from "@nats-io/transport-node";

// Without variables: the user and the account of wxtoken --sim.
const user = process.env.NATS_USER ?? "service";
const key = process.env.WXTOKEN_KEY ?? "authorizer.wxc0ffee0000000001.wxa000000000000001";
const [, component, appid] = key.split(".");
const name = "example-node-" + appid; // of queue group and durable consumer: the same in all instances

const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  user, // nats.js takes no user and no password out of a URL
  pass: process.env.NATS_PASSWORD ?? "service",
  inboxPrefix: "_INBOX_" + user, // the only place where this user may receive answers
  maxReconnectAttempts: -1, // without it: ten tries
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => nc.drain());
const kv = await new Kvm(nc).open("tokens");

// read gets the current token.
async function read() {
  const entry = await kv.get(key);
  if (entry?.operation !== "PUT") throw new Error(`${key} has no token: not authorized, or cancelled`);
  return entry;
}

// show prints what may be logged. entry.json().value is what goes into access_token=.
function show(entry) {
  if (entry.operation !== "PUT") return console.log(`${key} was cancelled`);
  const { generation, expires_at, value } = entry.json();
  const digest = createHash("sha256").update(value).digest("hex").slice(0, 16);
  console.log(`${key} generation=${generation} expires_at=${expires_at} sha256=${digest}`);
}

const commands = {
  // Reads the token once: for a script.
  async token() {
    show(await read());
  },

  // Keeps the token in memory: for a long-running process. The watch brings the current token, then each new one. It
  // may be silent after a backup was restored, so a token that has expired is asked for.
  async follow() {
    let entry;
    const lives = () => entry?.operation !== "PUT" || Date.parse(entry.json().expires_at) > Date.now();
    setInterval(() => lives() || read().then((now) => show((entry = now)), console.error), 5000).unref();
    for await (entry of await kv.watch({ key })) show(entry);
  },

  // WeChat answered 40001, 40014 or 42001 to a call with this token: report it, and make the call once more with the
  // next one.
  async report() {
    const refused = await read();
    const question = JSON.stringify({ key, revision: refused.revision });
    const answer = (await nc.request("wxtoken.reject", question, { timeout: 10_000 })).json();
    if (answer.error) throw new Error(answer.error.description);
    console.log("outcome:", answer.outcome);
    if (!["renewing", "already_renewed"].includes(answer.outcome)) return; // too_soon, unknown_key: there is no other
    const watch = await kv.watch({ key });
    setTimeout(() => watch.stop(), 30_000).unref();
    for await (const entry of watch) {
      if (entry.revision > refused.revision) return show(entry);
    }
    throw new Error("no other token came within 30 s");
  },

  // Consumes the account's messages and events. The durable consumer remembers what was acked, for all instances
  // together; a message that is not acked within 30 s is delivered again. This user can't remove the consumer: the
  // server removes it after a week without use.
  async messages() {
    const jsm = await jetstreamManager(nc);
    await jsm.consumers.add("MESSAGES", {
      durable_name: name,
      filter_subject: `wechat.message.${component}.${appid}.>`,
      ack_policy: AckPolicy.Explicit,
      inactive_threshold: nanos(7 * 24 * 3600_000),
    });
    const consumer = await jetstream(nc).consumers.get("MESSAGES", name);
    for await (const m of await consumer.consume()) {
      console.log(m.subject, m.headers.get("ce-id"), m.data.length, "bytes");
      m.ack(); // when the work is done
    }
  },

  // Replies to text messages at once (passive reply), within four seconds.
  async reply() {
    const questions = nc.subscribe(`wechat.reply.${component}.${appid}.>`, { queue: name });
    await nc.flush();
    console.log("listening on", questions.getSubject());
    for await (const m of questions) {
      m.respond(answer(m.string())); // "": no reply
      console.log("replied to", m.subject);
    }
  },
};

function answer(document) {
  try {
    const message = parse(document);
    return message.MsgType === "text" ? text(message, "you said: " + message.Content) : "";
  } catch {
    return ""; // users write anything: docs/contract.md, "Odd documents"
  }
}

// parse reads the fields of a document, XML or JSON as the component is set up. It goes from element to element, so
// that tags in a user's text are text.
function parse(document) {
  if (document.startsWith("{")) return { json: true, ...JSON.parse(document) };
  const elements = document.matchAll(/<(\w+)>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*?))\s*<\/\1>/gs);
  return Object.fromEntries(Array.from(elements, ([, name, cdata, plain]) => [name, cdata ?? unescape(plain)]));
}

const entities = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };
const unescape = (plain) => plain.replace(/&(lt|gt|quot|apos|amp);/g, (_, name) => entities[name]);

// text is a reply in the form of the message.
function text({ json, FromUserName, ToUserName }, content) {
  const now = Math.floor(Date.now() / 1000);
  const reply = { ToUserName: FromUserName, FromUserName: ToUserName, CreateTime: now, MsgType: "text", Content: content };
  if (json) return JSON.stringify(reply);
  const cdata = (value) => `<![CDATA[${String(value).replaceAll("]]>", "]]]]><![CDATA[>")}]]>`;
  return `<xml>${Object.entries(reply).map(([name, value]) => `<${name}>${cdata(value)}</${name}>`).join("")}</xml>`;
}

const command = commands[process.argv[2]];
if (!command) throw new Error(`usage: node wxtoken.mjs ${Object.keys(commands).join("|")}`);
await command();
if (!nc.isClosed() && !nc.isDraining()) await nc.drain();
const fault = await nc.closed();
if (fault) throw fault;
