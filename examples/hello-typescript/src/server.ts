// A function in TypeScript: compiled while it is built, nothing but JavaScript in the image.
import { createServer } from "node:http";

const server = createServer((_request, response) => {
  const revision: string = process.env.K_REVISION ?? "nobody";
  response.end(`Hello from typescript, ${revision}!\n`);
});
server.listen(Number(process.env.PORT ?? 8080));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
