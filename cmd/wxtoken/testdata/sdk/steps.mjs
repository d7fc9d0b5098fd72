// What the programs for Node have in common: a line of stdin is a step with its arguments, and each is answered
// with one line, "ok" or "failed" and what came out.
import { createInterface } from 'node:readline'
import { createHash } from 'node:crypto'

export const [host, appid, secret] = process.argv.slice(2)

export const menu = { button: [{ type: 'click', name: '今日歌曲', key: 'V1001' }] }

export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

export async function obey(steps) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [step, ...args] = line.split(' ')
    try {
      console.log(`ok\t${await steps[step](...args)}`)
    } catch (err) {
      console.log(`failed\t${String(err.code ?? '')} ${String(err.message).replaceAll('\n', ' ')}`)
    }
  }
}
