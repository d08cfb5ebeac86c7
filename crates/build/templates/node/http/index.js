/**
 * Answers a request.
 *
 * @param {object} context - `method`, `path`, `query`, `headers`, `body`, `rawBody`, `log` (info, warn, error…)
 * @param {*} body - JSON and forms parsed, text as a string, anything else as a Buffer
 * @returns {*} a string, an object (sent as JSON), `{ statusCode, headers, body }`, or nothing (204)
 */
const handle = async (context, body) => {
  // YOUR CODE HERE
  context.log.info(context.method, context.query, body);

  return { body: 'OK', headers: { 'content-type': 'text/plain' } };
};

// Optional beside `handle`: init(), shutdown(), liveness(), readiness(), cors().
module.exports = { handle };
