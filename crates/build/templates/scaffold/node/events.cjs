// CloudEvents 1.0 over HTTP for functions: binary and structured mode, with the standard library alone.
//
// Events are those of the package `cloudevents` when the project has it, else objects of the class below, which have the
// same properties.
'use strict';

const crypto = require('node:crypto');
const { createRequire } = require('node:module');
const path = require('node:path');

const REQUIRED = ['id', 'source', 'type', 'specversion'];
const STRUCTURED = 'application/cloudevents';

class OwnEvent {
  constructor(fields) {
    Object.assign(this, { id: crypto.randomUUID(), specversion: '1.0', time: new Date().toISOString() }, fields);
    const missing = REQUIRED.filter(name => !this[name]);
    if (missing.length) throw new TypeError(`the event lacks ${missing.join(', ')}`);
  }

  cloneWith(fields) {
    return new CloudEvent({ ...this, ...fields });
  }

  toJSON() {
    return { ...this };
  }

  toString() {
    return JSON.stringify(this);
  }
}
// Code that cannot use `instanceof` goes by the name.
Object.defineProperty(OwnEvent, 'name', { value: 'CloudEvent' });

let CloudEvent = OwnEvent;
try {
  CloudEvent = createRequire(path.join(process.cwd(), 'index.js'))('cloudevents').CloudEvent;
} catch {
  // The project does not have the package.
}

function media(contentType) {
  return (contentType || '').split(';', 1)[0].trim().toLowerCase();
}

function isJson(type) {
  return type === 'application/json' || type === 'text/json' || type.endsWith('+json');
}

function isStructured(headers) {
  return media(headers['content-type']).startsWith(STRUCTURED);
}

function isEvent(headers) {
  return isStructured(headers) || headers['ce-specversion'] !== undefined;
}

function isCloudEvent(value) {
  return value instanceof CloudEvent || value?.constructor?.name === 'CloudEvent';
}

function failure(code, text) {
  return Object.assign(new Error(text), { code });
}

// An event from a request's headers and body (a Buffer).
function read(headers, body) {
  let fields = {};
  if (isStructured(headers)) {
    const type = media(headers['content-type']);
    if (type.startsWith('application/cloudevents-batch')) throw failure(415, 'batches of events are not supported');
    if (type !== 'application/cloudevents+json') throw failure(415, `the event format ${type} is not supported`);
    fields = JSON.parse(body.toString('utf8'));
    if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) {
      throw failure(400, 'a structured event must be an object');
    }
    if (fields.data_base64 !== undefined) {
      fields.data = Buffer.from(fields.data_base64, 'base64');
      delete fields.data_base64;
    }
  } else {
    for (const [name, value] of Object.entries(headers)) {
      if (name.startsWith('ce-')) fields[name.slice(3)] = decode(value);
    }
    if (body.length) {
      const type = media(headers['content-type']) || 'application/json';
      fields.datacontenttype = headers['content-type'] || 'application/json';
      if (isJson(type)) fields.data = JSON.parse(body.toString('utf8'));
      else fields.data = type.startsWith('text/') ? body.toString('utf8') : body;
    }
  }
  const missing = REQUIRED.filter(name => !fields[name]);
  if (missing.length) throw failure(400, `the event lacks ${missing.join(', ')}`);
  if (!['1.0', '0.3'].includes(fields.specversion)) throw failure(406, `invalid spec version ${fields.specversion}`);
  return new CloudEvent(fields);
}

// A response's headers and body from an event, in binary mode.
function write(event) {
  const fields = typeof event.toJSON === 'function' ? event.toJSON() : { ...event };
  const { data, data_base64: encoded, datacontenttype, ...attributes } = fields;
  const headers = {};
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) headers[`ce-${name.toLowerCase()}`] = encode(String(value));
  }
  const bytes = encoded !== undefined ? Buffer.from(encoded, 'base64') : data;
  let body = '';
  let type = datacontenttype;
  if (Buffer.isBuffer(bytes) || bytes instanceof Uint8Array) {
    body = Buffer.from(bytes);
    type = type || 'application/octet-stream';
  } else if (typeof bytes === 'string' && type && !isJson(media(type))) {
    body = bytes;
  } else if (bytes !== undefined) {
    body = typeof bytes === 'string' ? bytes : JSON.stringify(bytes);
    type = type || 'application/json; charset=utf-8';
  }
  if (type) headers['content-type'] = type;
  return { headers, body };
}

function decode(value) {
  try {
    return decodeURIComponent(value);
  } catch {
    return value;
  }
}

function encode(value) {
  return value.replace(/[\u0000-\u001f"%\u007f-\uffff]+/g, part => encodeURIComponent(part).replace(/'/g, '%27'));
}

module.exports = { CloudEvent, isCloudEvent, isEvent, isJson, isStructured, media, read, write };
