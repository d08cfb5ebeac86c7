// The Rust example's twin: answers every request with one line.
addEventListener("fetch", (event) => event.respondWith(new Response("Hello from JavaScript!\n")));
