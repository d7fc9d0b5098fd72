#!/usr/bin/env bash
# co-wechat-api repeats an upload whose token was refused, and sends nothing.
#
# One would guess: the SDK answers 40001 with a new token and the same call, as it does for all calls, and the upload succeeds.
# What comes out: the form is a stream that was read to its end by the first try. The second one has a new token and nothing to
# write, so not even its headers leave: it waits until the server closes the connection, which it takes for idle (after 5 s here).
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: node 20, npm.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --silent --prefix . co-wechat-api@3.11.0 >install.log 2>&1 || { cat install.log; echo "not tried: not installed"; exit 2; }
cat >finding.mjs <<'JS'
import { createServer } from 'node:http'
import { readFileSync, writeFileSync } from 'node:fs'
import API from 'co-wechat-api'

writeFileSync('a.jpg', Buffer.alloc(100000, 7))
let issued = 0
const uploads = []
const server = createServer((req, res) => {
  res.setHeader('Content-Type', 'application/json')
  if (req.url.startsWith('/cgi-bin/token')) {
    res.end(JSON.stringify({ access_token: `t${++issued}`, expires_in: 7200 }))
    return
  }
  const upload = { announced: Number(req.headers['content-length']), came: 0 }
  uploads.push(upload)
  req.on('data', (chunk) => { upload.came += chunk.length })
  req.on('end', () => {
    const good = req.url.includes('access_token=t2')
    res.end(JSON.stringify(good ? { type: 'image', media_id: 'm' } : { errcode: 40001, errmsg: 'invalid credential' }))
  })
}).listen(0, '127.0.0.1', async () => {
  const api = new API('wx0000000000000001', 'secret')
  api.prefix = `http://127.0.0.1:${server.address().port}/cgi-bin/`
  const out = await api.uploadMedia('a.jpg', 'image').then((m) => `media_id ${m.media_id}`, (err) => `an error (${err.code ?? err.name})`)
  console.log('co-wechat-api', JSON.parse(readFileSync('node_modules/co-wechat-api/package.json')).version, 'node', process.version)
  uploads.forEach((u, i) => console.log(`try ${i + 1}: ${u.announced} bytes announced, ${u.came} came`))
  console.log(`the SDK says ${out}`)
  console.log(`it got ${issued} tokens, and the server saw ${uploads.length} upload`)
  const found = issued === 2 && uploads.length === 1 && uploads[0].came === uploads[0].announced && out === 'an error (ECONNRESET)'
  console.log(found ? 'as found: the second try sends nothing' : 'CHANGED: two tokens, one upload and ECONNRESET were found before')
  process.exit(found ? 0 : 1)
})
JS
timeout 90 node finding.mjs
