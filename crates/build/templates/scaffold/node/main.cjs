// The main program of a function: Dormouse lays it over the project when the function is built.
//
//     node main.cjs FILE
//
// It serves the `handle(context[, body])` that FILE exports (or FILE itself, when it is a function), with the contract
// of faas-js-runtime and the standard library alone.
'use strict';

const http = require('node:http');
const path = require('node:path');
const querystring = require('node:querystring');
const url = require('node:url');
const util = require('node:util');
const events = require('./events.cjs');

const DRAIN_MS = 25000;
const LEVELS = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60, silent: 100 };
const level = LEVELS[process.env.FUNC_LOG_LEVEL] || LEVELS.info;
const bodyLimit = Number(process.env.FUNC_BODY_LIMIT) || 64 * 1024 * 1024;

const log = {};
for (const name of Object.keys(LEVELS)) {
  log[name] = (...what) => {
    if (LEVELS[name] < level || name === 'silent') return;
    const line = { level: name, time: new Date().toISOString(), msg: util.format(...what) };
    process.stdout.write(JSON.stringify(line) + '\n');
  };
}

class Context {
  constructor(request, target, raw) {
    this.req = request;
    this.query = { ...querystring.parse(target.search ? target.search.slice(1) : '') };
    this.headers = { ...request.headers };
    this.method = request.method;
    this.path = target.pathname;
    this.httpVersion = request.httpVersion;
    this.httpVersionMajor = request.httpVersionMajor;
    this.httpVersionMinor = request.httpVersionMinor;
    this.contentType = request.headers['content-type'];
    this.body = parse(raw, this.contentType);
    this.rawBody = raw.toString('utf8');
    Object.assign(this, this.query);
    this.log = log;
  }

  cloudEventResponse(data) {
    const fields = { data };
    const builder = {
      version: value => { fields.specversion = value; return builder; },
      id: value => { fields.id = value; return builder; },
      type: value => { fields.type = value; return builder; },
      source: value => { fields.source = value; return builder; },
      response: () => new events.CloudEvent(fields)
    };
    return builder;
  }
}

class Status extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function parse(raw, contentType) {
  if (raw.length === 0) return undefined;
  const media = events.media(contentType);
  if (events.isJson(media)) {
    try {
      return JSON.parse(raw.toString('utf8'));
    } catch (error) {
      throw new Status(400, `the body is no JSON: ${error.message}`);
    }
  }
  if (media === 'application/x-www-form-urlencoded') return { ...querystring.parse(raw.toString('utf8')) };
  if (media.startsWith('text/')) return raw.toString('utf8');
  return raw;
}

async function read(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > bodyLimit) throw new Status(413, 'the body is too large');
    parts.push(part);
  }
  return Buffer.concat(parts);
}

// Invokes the function; answers {code, headers, body}.
async function invoke(fn, request, target) {
  const raw = await read(request);
  let context;
  let result;
  const headers = { 'content-type': 'application/json; charset=utf-8' };
  headers['access-control-allow-methods'] = 'OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH';
  if (typeof fn.cors === 'function') {
    const allowed = fn.cors();
    if (allowed.includes(request.headers.origin)) headers['access-control-allow-origin'] = request.headers.origin;
  } else {
    headers['access-control-allow-origin'] = '*';
  }
  const scope = Object.freeze({});
  if (events.isEvent(request.headers)) {
    let event;
    try {
      event = events.read(request.headers, raw);
    } catch (error) {
      throw new Status(error.code || 400, error.message);
    }
    context = new Context(request, target, events.isStructured(request.headers) ? Buffer.alloc(0) : raw);
    context.cloudevent = event;
    result = await fn.handle.call(scope, context, event);
    if (events.isCloudEvent(result)) {
      const message = events.write(result);
      return { code: 200, headers: { ...headers, ...message.headers }, body: message.body };
    }
  } else {
    context = new Context(request, target, raw);
    result = await fn.handle.call(scope, context, context.body);
  }
  if (!result) return { code: 204, headers: { ...headers, 'content-type': 'text/plain' }, body: '' };
  if (typeof result === 'string') {
    return { code: 200, headers: { ...headers, 'content-type': 'text/plain; charset=utf-8' }, body: result };
  }
  const structured = typeof result.headers === 'object' && result.headers !== null;
  if (structured) {
    for (const name of Object.keys(result.headers)) headers[name.toLowerCase()] = result.headers[name];
  }
  const code = result.statusCode || 200;
  if (result.body === undefined) {
    headers['content-type'] = 'application/json; charset=utf-8';
    return { code, headers, body: Buffer.isBuffer(result) ? result : JSON.stringify(result) };
  }
  const plain = typeof result.body === 'string' || Buffer.isBuffer(result.body);
  return { code, headers, body: plain ? result.body : JSON.stringify(result.body) };
}

function reply(response, code, headers, body) {
  const content = Buffer.isBuffer(body) ? body : Buffer.from(body === undefined ? '' : String(body));
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && value !== null) response.setHeader(name, value);
  }
  response.statusCode = code;
  if (code !== 204 && code !== 304) response.setHeader('content-length', content.length);
  response.end(response.req.method === 'HEAD' ? undefined : content);
}

// A health check may answer by itself, or with what it returns.
async function probe(check, request, response) {
  const headers = { 'content-type': 'text/plain; charset=utf-8' };
  if (typeof check !== 'function') return reply(response, 200, headers, 'OK');
  let code = 200;
  const answer = {
    code: value => { code = value; return answer; },
    status: value => { code = value; return answer; },
    header: (name, value) => { headers[name] = value; return answer; },
    send: body => { if (!response.headersSent) reply(response, code, headers, typeof body === 'object' ? JSON.stringify(body) : body); return answer; }
  };
  const result = await check(request, answer);
  if (response.headersSent) return undefined;
  if (result === false) code = 503;
  return reply(response, code, headers, typeof result === 'object' ? JSON.stringify(result) : String(result ?? 'OK'));
}

async function load(file) {
  const place = path.resolve(file);
  // import() reads both kinds of modules.
  const module = await import(url.pathToFileURL(place).href);
  const exported = typeof module.handle === 'function' ? module : module.default;
  if (typeof exported === 'function') return { handle: exported };
  if (exported && typeof exported.handle === 'function') return exported;
  throw new TypeError(`${file} exports no function 'handle'`);
}

async function main() {
  const fn = await load(process.argv[2] || 'index.js');
  if (typeof fn.init === 'function') await fn.init();
  const liveness = fn.liveness?.path || process.env.LIVENESS_URL || '/health/liveness';
  const readiness = fn.readiness?.path || process.env.READINESS_URL || '/health/readiness';
  const server = http.createServer(async (request, response) => {
    try {
      const target = new URL(request.url, 'http://function');
      if (target.pathname === liveness) return await probe(fn.liveness, request, response);
      if (target.pathname === readiness) return await probe(fn.readiness, request, response);
      if (request.method === 'OPTIONS') {
        return reply(response, 204, {
          'access-control-allow-methods': 'OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH',
          'access-control-allow-origin': '*',
          'access-control-allow-headers': '*'
        });
      }
      const { code, headers, body } = await invoke(fn, request, target);
      reply(response, code, headers, body);
    } catch (error) {
      const code = Number.isInteger(error?.code) && error.code >= 400 && error.code < 600 ? error.code : 500;
      if (code >= 500) log.error(`Error processing user function: "${error}"`, error?.stack || '');
      if (response.headersSent) return response.destroy();
      if (!request.complete) response.setHeader('connection', 'close');
      reply(response, code, { 'content-type': 'text/plain; charset=utf-8' }, error?.message ?? String(error));
    }
  });
  server.keepAliveTimeout = 75000;
  server.requestTimeout = 0;
  let stopping = false;
  const stop = async () => {
    if (stopping) return;
    stopping = true;
    log.info('stopping');
    setTimeout(() => process.exit(0), DRAIN_MS).unref();
    server.close(async () => {
      try {
        if (typeof fn.shutdown === 'function') await fn.shutdown();
      } catch (error) {
        log.error('shutdown:', error);
      }
      process.exit(0);
    });
    server.closeIdleConnections();
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  const listening = () => log.info('listening on port', server.address().port);
  const told = process.env.LISTEN_ADDRESS;
  if (told) {
    const place = told.lastIndexOf(':');
    server.listen(Number(told.slice(place + 1)), told.slice(0, place).replace(/[[\]]/g, '') || undefined, listening);
  } else {
    server.listen(Number(process.env.PORT || 8080), listening);
  }
  server.on('error', error => {
    log.fatal('listen:', error.message);
    process.exit(1);
  });
}

main().catch(error => {
  log.fatal('the function does not start:', error?.stack || error);
  process.exit(1);
});
