// What a service does with wxtoken's gateway, over HTTP, with only the JDK. README.md says how to run it.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.StringReader;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.HexFormat;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.xml.parsers.DocumentBuilderFactory;
import org.w3c.dom.Element;
import org.xml.sax.InputSource;
import org.xml.sax.SAXException;

import static java.nio.charset.StandardCharsets.UTF_8;

public class Wxtoken {
    // Without variables: the gateway, its service and the account of wxtoken --sim.
    static final String GATEWAY = env("GATEWAY_URL", "http://127.0.0.1:8092");
    static final String SERVICE_KEY = env("GATEWAY_KEY", "demo-key");
    static final String ACCOUNT = env("WXTOKEN_KEY", "authorizer.wxc0ffee0000000001.wxa000000000000001");
    static final HttpClient HTTP =
        HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(10)).build();

    static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }

    /** What ends the program with one line. */
    static class Fault extends RuntimeException {
        Fault(String text) {
            super(text);
        }

        Fault(HttpResponse<String> answer) {
            this(answer.statusCode() + " " + answer.body().strip());
        }
    }

    /** The token at the gateway: path is what follows its key. */
    static HttpRequest.Builder v1(String path) {
        return to("/v1/tokens/" + ACCOUNT + path)
            .header("Authorization", "Bearer " + SERVICE_KEY).header("Content-Type", "application/json");
    }

    static HttpRequest.Builder to(String path) {
        return HttpRequest.newBuilder(URI.create(GATEWAY + path)).timeout(Duration.ofSeconds(75)); // longer than wait=60
    }

    static HttpResponse<String> ask(HttpRequest.Builder request) throws IOException, InterruptedException {
        return HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    /** A field of an answer. They are flat, and what is read here has no escapes: a service has a JSON library. */
    static String field(String json, String name) {
        var found = Pattern.compile('"' + name + "\":\\s*(?:\"([^\"]*)\"|(-?\\d+))").matcher(json);
        if (!found.find()) return "";
        return found.group(1) != null ? found.group(1) : found.group(2);
    }

    /** Gets the current token, as JSON. */
    static String read() throws Exception {
        var answer = ask(v1(""));
        if (answer.statusCode() != 200) throw new Fault(answer);
        return answer.body();
    }

    /** Prints what may be logged. access_token is what goes into access_token=. */
    static void show(String token) throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(field(token, "access_token").getBytes(UTF_8));
        System.out.println(field(token, "key") + " generation=" + field(token, "generation") + " expires_at="
            + field(token, "expires_at") + " sha256=" + HexFormat.of().formatHex(digest, 0, 8));
    }

    /**
     * Keeps the token in memory: for a long-running process. The gateway answers when there is a token other than that
     * of the ETag, or after 60 s.
     */
    static void follow() throws Exception {
        String known = "";
        while (true) {
            var request = v1("?wait=60");
            if (!known.isEmpty()) request.header("If-None-Match", known);
            String fault;
            try {
                var answer = ask(request);
                switch (answer.statusCode()) {
                    case 200 -> {
                        known = answer.headers().firstValue("ETag").orElse("");
                        show(answer.body());
                        continue;
                    }
                    case 304 -> {
                        continue;
                    }
                    case 404 -> { // cancelled, or there is none yet
                        fault = known.isEmpty() ? new Fault(answer).getMessage() : ACCOUNT + " was cancelled";
                        known = "";
                    }
                    default -> fault = new Fault(answer).getMessage(); // 503: NATS is away
                }
            } catch (IOException e) {
                fault = "no answer from " + GATEWAY;
            }
            System.out.println(fault);
            Thread.sleep(5000);
        }
    }

    /**
     * WeChat answered 40001, 40014 or 42001 to a call that did not go through the gateway (right `real`): reports the
     * token. Repeat the call with the next one, which is the answer.
     */
    static void report() throws Exception {
        String question = "{\"generation\":" + field(read(), "generation") + "}";
        var answer = ask(v1("/refused").POST(HttpRequest.BodyPublishers.ofString(question)));
        if (answer.statusCode() != 200) throw new Fault(answer); // 409: the token is too young to be the reason
        show(answer.body());
    }

    /**
     * Calls WeChat the way that any SDK does: the gateway is its host, and the service's key its secret. A token is
     * valid for two hours, whatever happens to WeChat's.
     */
    static void call() throws Exception {
        String[] names = ACCOUNT.split("\\.");
        String appid = names[1] + "/" + names[2];
        String token = field(wechat("/cgi-bin/token", "grant_type", "client_credential", "appid", appid, "secret", SERVICE_KEY),
            "access_token");
        String user = wechat("/cgi-bin/user/info", "access_token", token, "openid", env("OPENID", "oSimUser"), "lang", "zh_CN");
        System.out.println("user " + field(user, "openid") + " subscribe=" + field(user, "subscribe"));
    }

    static String wechat(String path, String... query) throws Exception {
        var text = new StringBuilder(path);
        for (int i = 0; i < query.length; i += 2) {
            text.append(i == 0 ? '?' : '&').append(query[i]).append('=').append(URLEncoder.encode(query[i + 1], UTF_8));
        }
        var answer = ask(to(text.toString()));
        String errcode = field(answer.body(), "errcode");
        if (answer.statusCode() != 200 || !errcode.isEmpty() && !errcode.equals("0")) throw new Fault(answer);
        return answer.body();
    }

    /** Receives the account's messages and events as a webhook, in the JDK's own web server. */
    static void messages() throws Exception {
        byte[] secret = Base64.getDecoder().decode(env("WEBHOOK_SECRET", "").replaceFirst("^whsec_", ""));
        if (secret.length == 0) throw new Fault("WEBHOOK_SECRET: want the secret of the webhook, whsec_...");
        String listen = env("WEBHOOK_LISTEN", "127.0.0.1:9000");
        int colon = listen.lastIndexOf(':');
        var address = new InetSocketAddress(listen.substring(0, colon), Integer.parseInt(listen.substring(colon + 1)));
        var server = HttpServer.create(address, 0);
        server.createContext("/", exchange -> {
            try (exchange) {
                receive(exchange, secret);
            }
        });
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
        System.out.println("listening on " + listen);
    }

    /**
     * Answers one request: 200 says that the message is done, so do the work first, or store it. Where the
     * gateway waits for a passive reply, the answer is that.
     */
    static void receive(HttpExchange exchange, byte[] secret) throws IOException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        if (!signed(exchange, body, secret)) {
            exchange.sendResponseHeaders(401, -1);
            return;
        }
        System.out.println(header(exchange, "Wxtoken-Component") + "." + header(exchange, "Wxtoken-Appid") + "."
            + header(exchange, "Wxtoken-Msgtype") + " " + header(exchange, "webhook-id") + " " + body.length + " bytes");
        String reply = header(exchange, "Wxtoken-Reply").equals("wanted") ? answer(new String(body, UTF_8)) : "";
        byte[] bytes = reply.getBytes(UTF_8);
        exchange.sendResponseHeaders(200, bytes.length == 0 ? -1 : bytes.length);
        exchange.getResponseBody().write(bytes);
    }

    static String header(HttpExchange exchange, String name) {
        String value = exchange.getRequestHeaders().getFirst(name);
        return value == null ? "" : value;
    }

    static boolean signed(HttpExchange exchange, byte[] body, byte[] secret) {
        String at = header(exchange, "webhook-timestamp");
        if (!at.matches("\\d{1,18}") || Math.abs(Instant.now().getEpochSecond() - Long.parseLong(at)) > 300) return false;
        byte[] want;
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(secret, "HmacSHA256"));
            mac.update((header(exchange, "webhook-id") + "." + at + ".").getBytes(UTF_8));
            want = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(UTF_8);
        } catch (java.security.GeneralSecurityException e) {
            throw new IllegalStateException(e); // every JDK has it
        }
        boolean signed = false;
        for (String signature : header(exchange, "webhook-signature").split(" ")) { // two while the secret is changed
            signed |= MessageDigest.isEqual(want, signature.getBytes(UTF_8));
        }
        return signed;
    }

    /** The passive reply to a message in XML; "": none. */
    static String answer(String document) {
        try {
            var factory = DocumentBuilderFactory.newInstance();
            factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
            var builder = factory.newDocumentBuilder();
            builder.setErrorHandler(null); // it would print
            Element message = builder.parse(new InputSource(new StringReader(document))).getDocumentElement();
            if (!text(message, "MsgType").equals("text")) return "";
            return "<xml>" + element("ToUserName", text(message, "FromUserName"))
                + element("FromUserName", text(message, "ToUserName"))
                + element("CreateTime", String.valueOf(Instant.now().getEpochSecond())) + element("MsgType", "text")
                + element("Content", "you said: " + text(message, "Content")) + "</xml>";
        } catch (SAXException e) {
            return ""; // users write anything: docs/contract.md, "Odd documents"
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    static String text(Element message, String name) {
        for (var node = message.getFirstChild(); node != null; node = node.getNextSibling()) {
            if (node.getNodeName().equals(name)) return node.getTextContent().strip();
        }
        return "";
    }

    static String element(String name, String value) {
        return "<" + name + "><![CDATA[" + value.replace("]]>", "]]]]><![CDATA[>") + "]]></" + name + ">";
    }

    public static void main(String[] args) throws Exception {
        try {
            switch (args.length == 1 ? args[0] : "") {
                case "token" -> show(read());
                case "follow" -> follow();
                case "report" -> report();
                case "call" -> call();
                case "messages" -> messages();
                default -> throw new Fault("usage: java Wxtoken.java token|follow|report|call|messages");
            }
        } catch (Fault | IOException e) {
            System.err.println(e.getMessage() == null ? "no answer from " + GATEWAY : e.getMessage());
            System.exit(1);
        }
    }
}
