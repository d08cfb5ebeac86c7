import type { IncomingHttpHeaders } from 'node:http';

/** An event. */
export interface CloudEvent<T = unknown> {
  id: string;
  source: string;
  type: string;
  specversion: string;
  subject?: string;
  time?: string;
  datacontenttype?: string;
  data?: T;
  [extension: string]: unknown;
}

/** What comes with an event. */
export interface Context {
  headers: IncomingHttpHeaders;
  log: Logger;
  cloudEventResponse(data: unknown): CloudEventResponse;
}

/** Builds the answer. */
export interface CloudEventResponse {
  id(id: string): CloudEventResponse;
  source(source: string): CloudEventResponse;
  type(type: string): CloudEventResponse;
  response(): CloudEvent;
}

/** Writes lines of JSON. */
export interface Logger {
  debug(...what: unknown[]): void;
  info(...what: unknown[]): void;
  warn(...what: unknown[]): void;
  error(...what: unknown[]): void;
}
