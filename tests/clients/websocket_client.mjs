// The TypeScript SDK over a WebSocket: node websocket_client.mjs URL [TOKEN]
// Without a token its transport is used as it is; with one, a subclass of `ws` sets the header.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { WebSocketClientTransport } from "@modelcontextprotocol/sdk/client/websocket.js";
import WebSocketOfWs from "ws";

const PREFIX = "everything__";
const [url, token] = process.argv.slice(2);

if (token) {
  globalThis.WebSocket = class extends WebSocketOfWs {
    constructor(address, protocols) {
      super(address, protocols, { headers: { Authorization: `Bearer ${token}` } });
    }
  };
}

const client = new Client({ name: "websocket-client", version: "1" });
await client.connect(new WebSocketClientTransport(new URL(url)));

const call = (name, options) => client.callTool({ name: PREFIX + name }, undefined, options);
const textOf = (result) => result.content[0].text;

const { tools } = await client.listTools();
const simple = await call("test_simple_text");
const failed = await call("test_error_handling");

const progress = [];
await call("test_tool_with_progress", { onprogress: (step) => progress.push(step.progress) });

const cancelling = new AbortController();
const stop = () => cancelling.abort("no longer wanted");
const cancelled = call("wait_for_cancellation", { signal: cancelling.signal, onprogress: stop });
await cancelled.catch(() => {});
const afterwards = await call("return_after_cancellation");

console.log(
  JSON.stringify({
    tools: tools.map((tool) => tool.name),
    text: textOf(simple),
    failure: textOf(failed),
    has_failed: failed.isError,
    progress,
    after_cancelling: textOf(afterwards),
  }),
);
await client.close();
