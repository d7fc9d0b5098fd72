"""wechatpy against the gateway: API_BASE_URL leaves the address of the token as it is, hence fetch_access_token."""
import hashlib
import sys

from wechatpy import WeChatClient
from wechatpy.client.api import WeChatWxa
from wechatpy.oauth import WeChatOAuth

host, appid, secret = sys.argv[1:]


class Client(WeChatClient):
    API_BASE_URL = host + "/cgi-bin/"

    def fetch_access_token(self):
        return self._fetch_access_token(
            self.API_BASE_URL + "token", {"grant_type": "client_credential", "appid": self.appid, "secret": self.secret}
        )


client = Client(appid, secret)
WeChatWxa.API_BASE_URL = WeChatOAuth.API_BASE_URL = host + "/"


def upload(path):
    with open(path, "rb") as file:
        return client.media.upload("image", file)["media_id"]


def log_in(code):
    oauth = WeChatOAuth(appid, secret, "")
    user = oauth.fetch_access_token(code)
    if not oauth.check_access_token():
        raise RuntimeError("the token is not good")
    oauth.refresh_access_token(user["refresh_token"])
    return oauth.get_user_info()["openid"]


steps = {
    "token": lambda: client.access_token,
    "users": lambda: client.user.get_followers()["data"]["openid"][0],
    "menu": lambda: client.menu.create({"button": [{"type": "click", "name": "今日歌曲", "key": "V1001"}]})["errmsg"],
    "upload": upload,
    "session": lambda code: client.wxa.code_to_session(code)["openid"],
    "login": log_in,
    "download": lambda media_id: hashlib.sha256(client.media.download(media_id).content).hexdigest(),
}

for line in sys.stdin:
    step, *args = line.split()
    try:
        print("ok", steps[step](*args), sep="\t", flush=True)
    except Exception as err:
        print("failed", str(err).replace("\n", " "), sep="\t", flush=True)
