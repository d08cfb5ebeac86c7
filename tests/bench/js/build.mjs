// Builds the hello.js beside it into a component: `node build.mjs WIT_FOLDER TARGET`, where componentize-js is installed.
import { componentize } from '@bytecodealliance/componentize-js';
import { writeFile } from 'node:fs/promises';

const [witPath, target] = process.argv.slice(2);
const sourcePath = new URL('hello.js', import.meta.url).pathname;
const { component } = await componentize({ sourcePath, witPath, worldName: 'hello' });
await writeFile(target, component);
