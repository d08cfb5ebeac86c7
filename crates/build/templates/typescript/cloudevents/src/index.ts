import type { CloudEvent, Context } from './types.js';

/** Takes an event and answers with one, or with nothing. */
export const handle = async (context: Context, event: CloudEvent): Promise<CloudEvent | void> => {
  // YOUR CODE HERE
  context.log.info('got', event.type, 'from', event.source, event.data);

  return context
    .cloudEventResponse({ message: 'OK' })
    .id(`response-${event.id}`)
    .source('function')
    .type('function.response')
    .response();
};

// Optional beside `handle`: init(), shutdown(), liveness(), readiness().
