import type { Context, StructuredReturn } from './types.js';

/** Answers a request. JSON and forms come parsed, text as a string, anything else as a Buffer. */
export const handle = async (context: Context, body?: unknown): Promise<StructuredReturn> => {
  // YOUR CODE HERE
  context.log.info(context.method, context.query, body);

  return { body: 'OK', headers: { 'content-type': 'text/plain' } };
};

// Optional beside `handle`: init(), shutdown(), liveness(), readiness(), cors().
