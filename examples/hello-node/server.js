// A function in JavaScript: Node.js alone is all it needs.
const http = require("node:http");

const server = http.createServer((request, response) => {
  response.end(`Hello from node, ${process.env.K_REVISION}!\n`);
});
server.listen(process.env.PORT ?? 8080);
process.on("SIGTERM", () => server.close(() => process.exit(0)));
