// Asks a server of ours with Node's HTTP/2 client, and says what was wrong.
//
//   node client.mjs URL [--ca FILE] [--hold N]
//
// With --hold N it sends N requests to /hold at once, wants all of them answered and to be told
// that the server leaves.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import { once } from "node:events";

const [url, ...flags] = process.argv.slice(2);
const flag = (name) => (flags.includes(name) ? flags[flags.indexOf(name) + 1] : undefined);
const ca = flag("--ca") && readFileSync(flag("--ca"));
const pattern = (size) => Buffer.from(Uint8Array.from({ length: size }, (_, n) => n));
const LARGE = pattern(4 << 20);

const session = http2.connect(url, { ca });
let goaway = null;
session.on("goaway", (code) => (goaway = code));
await once(session, "connect");

// Sends a request and takes all of the answer. `pieces` is sent piece by piece.
async function ask(method, path, pieces = [], headers = {}) {
  const hasBody = pieces.length > 0;
  const stream = session.request(
    { ":method": method, ":path": path, ...headers },
    { endStream: !hasBody },
  );
  const answer = { headers: {}, trailers: {}, body: Buffer.alloc(0), interim: 0 };
  stream.on("response", (given) => (answer.headers = given));
  stream.on("trailers", (given) => (answer.trailers = given));
  stream.on("continue", () => (answer.interim += 1));
  if (headers.expect) await once(stream, "continue");
  const found = [];
  stream.on("data", (piece) => found.push(piece));
  for (const piece of pieces) if (!stream.write(piece)) await once(stream, "drain");
  if (hasBody) stream.end();
  await once(stream, "close");
  assert.equal(stream.rstCode, http2.constants.NGHTTP2_NO_ERROR);
  answer.body = Buffer.concat(found);
  return answer;
}

async function check(what, answer, status, body, hasTail) {
  assert.equal(answer.headers[":status"], status, what);
  assert.ok(answer.body.equals(body), `${what}: ${answer.body.length} bytes`);
  if (hasTail) assert.equal(answer.trailers["grpc-status"], "0", what);
}

if (flag("--hold")) {
  const all = Array.from({ length: Number(flag("--hold")) }, () => ask("GET", "/hold"));
  for (const answer of await Promise.all(all)) {
    await check("held", answer, 200, Buffer.from("released"), false);
  }
  if (!session.destroyed) await once(session, "close");
  assert.equal(goaway, http2.constants.NGHTTP2_NO_ERROR);
} else {
  const message = Buffer.from("\0\0\0\0\x05hello");
  const grpc = { "content-type": "application/grpc", te: "trailers" };
  await check("unary", await ask("POST", "/unary", [message], grpc), 200, message, true);
  const parts = Array.from({ length: 64 }, (_, n) => LARGE.subarray(n << 16, (n + 1) << 16));
  await check("both ways", await ask("POST", "/echo", parts), 200, LARGE, true);
  await check("a stream", await ask("GET", "/stream/3000000"), 200, pattern(3000000), true);
  const head = await ask("HEAD", "/bytes/1234");
  await check("HEAD", head, 200, Buffer.alloc(0), false);
  assert.equal(head.headers["content-length"], "1234");
  const options = await ask("OPTIONS", "/");
  await check("OPTIONS", options, 204, Buffer.alloc(0), false);
  assert.match(options.headers.allow, /POST/);
  const expected = await ask("POST", "/echo", [message], { expect: "100-continue" });
  await check("100-continue", expected, 200, message, true);
  assert.equal(expected.interim, 1);

  const many = Array.from({ length: 300 }, (_, n) => ask("GET", `/bytes/${n * 331}`));
  for (const [n, answer] of (await Promise.all(many)).entries()) {
    await check(`request ${n} of many`, answer, 200, pattern(n * 331), false);
  }

  // A caller who breaks off in the middle takes nothing else down.
  const broken = session.request({ ":path": "/stream/60000000" });
  await once(broken, "data");
  broken.close(http2.constants.NGHTTP2_CANCEL);
  await once(broken, "close");
  await check("after a reset", await ask("GET", "/bytes/5"), 200, pattern(5), false);
  await new Promise((done, failed) => session.ping((error) => (error ? failed(error) : done())));
  session.close();
}
console.log("ok");
