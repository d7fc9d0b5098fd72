import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;

import me.chanjar.weixin.common.bean.menu.WxMenu;
import me.chanjar.weixin.common.bean.menu.WxMenuButton;
import me.chanjar.weixin.common.bean.oauth2.WxOAuth2AccessToken;
import me.chanjar.weixin.mp.api.WxMpService;
import me.chanjar.weixin.mp.api.impl.WxMpServiceHttpClientImpl;
import me.chanjar.weixin.mp.config.WxMpHostConfig;
import me.chanjar.weixin.mp.config.impl.WxMpDefaultConfigImpl;

/** WxJava against the gateway: apiHost. */
class WithWxJava {
    public static void main(String[] args) throws Exception {
        WxMpHostConfig host = new WxMpHostConfig();
        host.setApiHost(args[0]);
        WxMpDefaultConfigImpl config = new WxMpDefaultConfigImpl();
        config.setHostConfig(host);
        config.setAppId(args[1]);
        config.setSecret(args[2]);
        WxMpService service = new WxMpServiceHttpClientImpl();
        service.setWxMpConfigStorage(config);

        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null;) {
            String[] step = line.split(" ");
            try {
                System.out.println("ok\t" + done(service, step));
            } catch (Exception e) {
                System.out.println("failed\t" + e.toString().replace('\n', ' '));
            }
        }
    }

    static String done(WxMpService service, String[] step) throws Exception {
        switch (step[0]) {
            case "token":
                return service.getAccessToken();
            case "users":
                return service.getUserService().userList(null).getOpenids().get(0);
            case "menu":
                WxMenuButton button = new WxMenuButton();
                button.setType("click");
                button.setName("今日歌曲");
                button.setKey("V1001");
                WxMenu menu = new WxMenu();
                menu.setButtons(List.of(button));
                service.getMenuService().menuCreate(menu);
                return "ok";
            case "login":
                WxOAuth2AccessToken user = service.getOAuth2Service().getAccessToken(step[1]);
                if (!service.getOAuth2Service().validateAccessToken(user)) {
                    throw new IllegalStateException("the token is not good");
                }
                user = service.getOAuth2Service().refreshAccessToken(user.getRefreshToken());
                return service.getOAuth2Service().getUserInfo(user, null).getOpenid();
            case "upload":
                return service.getMaterialService().mediaUpload("image", new File(step[1])).getMediaId();
            case "download":
                byte[] text = Files.readAllBytes(service.getMaterialService().mediaDownload(step[1]).toPath());
                return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(text));
            default:
                throw new IllegalArgumentException(step[0]);
        }
    }
}
