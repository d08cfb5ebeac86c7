import type { IncomingHttpHeaders } from 'node:http';

/** What a request brings. */
export interface Context {
  method: string;
  path: string;
  query: Record<string, string | string[]>;
  headers: IncomingHttpHeaders;
  body?: unknown;
  rawBody?: string;
  log: Logger;
}

/** Writes lines of JSON. */
export interface Logger {
  debug(...what: unknown[]): void;
  info(...what: unknown[]): void;
  warn(...what: unknown[]): void;
  error(...what: unknown[]): void;
}

/** An answer with a status and headers. */
export interface StructuredReturn {
  statusCode?: number;
  headers?: Record<string, string>;
  body?: string | object | Buffer;
}
