// node-easywechat against the gateway: host, appid and secret are the gateway's, nothing else.
import { createReadStream } from 'node:fs'
import easywechat from 'node-easywechat'
import FormData from 'form-data'
import { appid, host, menu, obey, secret, sha256 } from './steps.mjs'

const app = new easywechat.OfficialAccount({ app_id: appid, secret, http: { baseURL: host } })
const program = new easywechat.MiniApp({ app_id: appid, secret, http: { baseURL: host } })
const client = app.getClient()

await obey({
  token: () => app.getAccessToken().getToken(),
  users: async () => (await client.get('/cgi-bin/user/get')).toObject().data.openid[0],
  menu: async () => (await client.postJson('/cgi-bin/menu/create', menu)).toObject().errmsg,
  upload: async (path) => {
    const form = new FormData()
    form.append('media', createReadStream(path))
    return (await client.post('/cgi-bin/media/upload', { params: { type: 'image' }, formData: form })).toObject().media_id
  },
  session: async (code) => (await program.getUtils().codeToSession(code)).openid,
  download: async (id) => {
    const response = await client.get('/cgi-bin/media/get', { params: { media_id: id }, responseType: 'arraybuffer' })
    return sha256(response.getContent())
  },
})
