// What our clients are tried against: Node's servers, HTTP/2 by prior knowledge or (--http1)
// HTTP/1.1. It says its address, and goes when its input ends.
import http from "node:http";
import http2 from "node:http2";

const { NGHTTP2_REFUSED_STREAM } = http2.constants;
const pattern = (size) => Buffer.from(Uint8Array.from({ length: size }, (_, n) => n));
const held = [];

function echo(request, response) {
  response.writeHead(200, { trailer: "x-tail" });
  request.on("data", (piece) => {
    if (!response.write(piece)) {
      request.pause();
      response.once("drain", () => request.resume());
    }
  });
  request.on("end", () => {
    response.addTrailers({ "x-tail": "true" });
    response.end();
  });
}

function handle(request, response) {
  const [, kind, size] = request.url.split("/");
  const session = request.stream?.session;
  switch (kind) {
    case "echo":
      return echo(request, response);
    case "bytes": {
      response.writeHead(200, { "content-length": size });
      return response.end(pattern(Number(size)));
    }
    case "stream":
      response.write(pattern(Number(size) >> 1));
      return response.end(pattern(Number(size)).subarray(Number(size) >> 1));
    case "hold":
      return held.push(response);
    case "goaway": {
      // Streams up to this one are answered, all later ones are not looked at.
      session.goaway(0, request.stream.id);
      for (const one of held) if (one.stream.id < request.stream.id) one.end("held");
      return response.end("leaving");
    }
    case "refused":
      return request.stream.close(NGHTTP2_REFUSED_STREAM);
    case "break":
      response.writeHead(200, { "content-length": "100" });
      return response.write("a part", () => (session ?? request.socket).destroy());
    case "close":
      response.setHeader("connection", "close");
      return response.end("closed");
    default:
      // The body is not read.
      response.writeHead(413);
      return response.end();
  }
}

const isHttp1 = process.argv.includes("--http1");
const server = isHttp1
  ? http.createServer({ keepAliveTimeout: 60_000 }, handle)
  : http2.createServer({ settings: { maxConcurrentStreams: 8 } }, handle);
server.on("sessionError", () => {});
server.listen(0, "127.0.0.1", () => console.log(`127.0.0.1:${server.address().port}`));
process.stdin.resume().on("end", () => process.exit(0));
