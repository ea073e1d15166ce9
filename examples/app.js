const http = require('http'); const os = require('os');
console.log("Test server starting...");
const handler = (req, res) => { res.writeHead(200); res.end("Container Hostname: " + os.hostname() + "\n"); };
http.createServer(handler).listen(8080);
