// The TypeScript SDK over streamable HTTP: node http_client.mjs URL TOKEN TOOL ARGUMENTS
// Calls a tool, and says what came of it.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, token, name, given] = process.argv.slice(2);
const requestInit = { headers: { Authorization: `Bearer ${token}` } };

const client = new Client({ name: "http-client", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
const result = await client.callTool({ name, arguments: JSON.parse(given) });
console.log(JSON.stringify({ text: result.content[0].text, has_failed: result.isError ?? false }));
await client.close();
