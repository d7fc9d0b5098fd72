"""wechatpy against the gateway: API_BASE_URL leaves the address of the token as it is, hence fetch_access_token."""
import hashlib
import sys

from wechatpy import WeChatClient

host, appid, secret = sys.argv[1:]


class Client(WeChatClient):
    API_BASE_URL = host + "/cgi-bin/"

    def fetch_access_token(self):
        return self._fetch_access_token(
            self.API_BASE_URL + "token", {"grant_type": "client_credential", "appid": self.appid, "secret": self.secret}
        )


client = Client(appid, secret)


def upload(path):
    with open(path, "rb") as file:
        return client.media.upload("image", file)["media_id"]


steps = {
    "token": lambda: client.access_token,
    "users": lambda: client.user.get_followers()["data"]["openid"][0],
    "menu": lambda: client.menu.create({"button": [{"type": "click", "name": "今日歌曲", "key": "V1001"}]})["errmsg"],
    "upload": upload,
    "download": lambda media_id: hashlib.sha256(client.media.download(media_id).content).hexdigest(),
}

for line in sys.stdin:
    step, *args = line.split()
    try:
        print("ok", steps[step](*args), sep="\t", flush=True)
    except Exception as err:
        print("failed", str(err).replace("\n", " "), sep="\t", flush=True)
