/**
 * Takes an event.
 *
 * @param {object} context - `headers`, `log` (info, warn, error…), `cloudEventResponse(data)`
 * @param {object} event - `id`, `source`, `type`, `data`, `datacontenttype`, `subject`, `time` and extensions
 * @returns {object} an event as the answer, or nothing
 */
const handle = async (context, event) => {
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
module.exports = { handle };
