// What a service does with wxtoken, over NATS only. README.md says how to build and run it.
#define _GNU_SOURCE // strptime, timegm
#include <cjson/cJSON.h>
#include <nats/nats.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *user, *key; // key is authorizer.<component>.<appid>
static char name[128];         // of queue group and durable consumer: the same in all instances
static natsConnection *nc;
static jsCtx *js;
static kvStore *kv;

static const char *env(const char *variable, const char *otherwise) {
    const char *value = getenv(variable);
    return value != NULL ? value : otherwise;
}

static void fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void check(natsStatus s, const char *what) {
    if (s != NATS_OK) fail(what, natsStatus_GetText(s));
}

static void open_nats(void) {
    natsOptions *opts = NULL;
    char inbox[256];

    // Without variables: the user and the account of wxtoken --sim.
    user = env("NATS_USER", "service");
    key = env("WXTOKEN_KEY", "authorizer.wxc0ffee0000000001.wxa000000000000001");
    if (strchr(key, '.') == NULL) fail("WXTOKEN_KEY", "want authorizer.<component>.<appid>");
    snprintf(name, sizeof name, "example-c-%s", strrchr(key, '.') + 1);
    snprintf(inbox, sizeof inbox, "_INBOX_%s", user);
    check(natsOptions_Create(&opts), "options");
    check(natsOptions_SetURL(opts, env("NATS_URL", "nats://127.0.0.1:4222")), "NATS_URL");
    check(natsOptions_SetUserInfo(opts, user, env("NATS_PASSWORD", "service")), "user");
    check(natsOptions_SetCustomInboxPrefix(opts, inbox), "inbox"); // the only place where this user may receive answers
    check(natsOptions_SetMaxReconnect(opts, -1), "options");       // without it: sixty tries
    check(natsConnection_Connect(&nc, opts), "connect");
    natsOptions_Destroy(opts);
    check(natsConnection_JetStream(&js, nc, NULL), "JetStream");
    check(js_KeyValue(&kv, js, "tokens"), "bucket tokens");
}

static const char *string(const cJSON *object, const char *field) {
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItem(object, field));
    return value != NULL ? value : "";
}

static time_t expiry(kvEntry *entry) {
    struct tm tm = {0};
    cJSON *token = cJSON_Parse(kvEntry_ValueString(entry));
    strptime(string(token, "expires_at"), "%Y-%m-%dT%H:%M:%S", &tm);
    cJSON_Delete(token);
    return timegm(&tm);
}

// show prints what may be logged. The token's "value" is what goes into access_token=.
static void show(kvEntry *entry) {
    if (kvEntry_Operation(entry) != kvOp_Put) {
        printf("%s was cancelled\n", key);
        return;
    }
    cJSON *token = cJSON_Parse(kvEntry_ValueString(entry));
    const char *value = string(token, "value");
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)value, strlen(value), digest);
    double generation = cJSON_GetNumberValue(cJSON_GetObjectItem(token, "generation"));
    printf("%s generation=%.0f expires_at=%s sha256=", key, generation, string(token, "expires_at"));
    for (int i = 0; i < 8; i++) printf("%02x", digest[i]);
    printf("\n");
    cJSON_Delete(token);
}

// get gets the current token.
static kvEntry *get(void) {
    kvEntry *entry = NULL;
    natsStatus s = kvStore_Get(&entry, kv, key);
    if (s == NATS_NOT_FOUND) fail(key, "no token: not authorized, or cancelled");
    check(s, "get");
    return entry;
}

// Reads the token once: for a script.
static void token(void) {
    kvEntry *entry = get();
    show(entry);
    kvEntry_Destroy(entry);
}

// Keeps the token in memory: for a long-running process. The watch brings the current token, then each new one. It may
// be silent after a backup was restored, so a token that has expired is asked for.
static void follow(void) {
    kvWatcher *watch = NULL;
    kvEntry *entry = NULL, *news;
    check(kvStore_Watch(&watch, kv, key, NULL), "watch");
    for (;;) {
        natsStatus s = kvWatcher_Next(&news, watch, 5000);
        if (s == NATS_TIMEOUT) {
            if (entry == NULL || kvEntry_Operation(entry) != kvOp_Put || expiry(entry) > time(NULL)) continue;
            news = get();
        } else {
            check(s, "watch");
            if (news == NULL) continue; // that was all there is now
        }
        kvEntry_Destroy(entry);
        entry = news;
        show(entry);
    }
}

// WeChat answered 40001, 40014 or 42001 to a call with this token: report it, and repeat the call with the next one.
static void report(void) {
    kvEntry *refused = get(), *entry = NULL;
    kvWatcher *watch = NULL;
    natsMsg *msg = NULL;
    char question[512];

    snprintf(question, sizeof question, "{\"key\":\"%s\",\"revision\":%llu}", key, (unsigned long long)kvEntry_Revision(refused));
    check(natsConnection_RequestString(&msg, nc, "wxtoken.reject", question, 10000), "report");
    cJSON *answer = cJSON_ParseWithLength(natsMsg_GetData(msg), natsMsg_GetDataLength(msg));
    const cJSON *error = cJSON_GetObjectItem(answer, "error");
    if (error != NULL) fail("report", string(error, "description"));
    const char *outcome = string(answer, "outcome");
    printf("outcome: %s\n", outcome);
    if (strcmp(outcome, "renewing") == 0 || strcmp(outcome, "already_renewed") == 0) { // not too_soon, unknown_key
        check(kvStore_Watch(&watch, kv, key, NULL), "watch");
        do {
            kvEntry_Destroy(entry);
            check(kvWatcher_Next(&entry, watch, 30000), "wait for the next token");
        } while (entry == NULL || kvEntry_Revision(entry) <= kvEntry_Revision(refused));
        show(entry);
        kvEntry_Destroy(entry);
        kvWatcher_Destroy(watch);
    }
    cJSON_Delete(answer);
    natsMsg_Destroy(msg);
    kvEntry_Destroy(refused);
}

// Consumes the account's messages and events. The durable consumer remembers what was acked, for all instances together;
// a message that is not acked within 30 s is delivered again. This user can't remove the consumer: the server removes
// it after a week without use.
static void messages(void) {
    natsSubscription *sub = NULL;
    jsConsumerInfo *info = NULL;
    jsConsumerConfig config;
    jsSubOptions bind;
    jsErrCode code = 0;
    char subject[256];

    snprintf(subject, sizeof subject, "wechat.message.%s.>", strchr(key, '.') + 1);
    jsConsumerConfig_Init(&config);
    config.Name = config.Durable = name; // without Name it asks in an older way, which this user may not
    config.FilterSubject = subject;
    config.AckPolicy = js_AckExplicit;
    config.InactiveThreshold = 7LL * 24 * 3600 * 1000000000;
    check(js_AddConsumer(&info, js, "MESSAGES", &config, NULL, &code), "consumer");
    jsConsumerInfo_Destroy(info);
    jsSubOptions_Init(&bind);
    bind.Stream = "MESSAGES";
    bind.Consumer = name;
    check(js_PullSubscribe(&sub, js, subject, name, NULL, &bind, &code), "subscribe");
    for (;;) {
        natsMsgList list;
        natsStatus s = natsSubscription_Fetch(&list, sub, 10, 30000, &code);
        if (s == NATS_CONNECTION_CLOSED) check(s, "fetch");
        if (s != NATS_OK) { // none came, or the server is going down
            if (s != NATS_TIMEOUT) nats_Sleep(1000);
            continue;
        }
        for (int i = 0; i < list.Count; i++) {
            const char *id = "";
            natsMsgHeader_Get(list.Msgs[i], "ce-id", &id);
            printf("%s %s %d bytes\n", natsMsg_GetSubject(list.Msgs[i]), id, natsMsg_GetDataLength(list.Msgs[i]));
            check(natsMsg_Ack(list.Msgs[i], NULL), "ack"); // when the work is done
        }
        natsMsgList_Destroy(&list);
    }
}

enum form { NONE, PLAIN, CDATA };

// field copies the text of an element of a document, and says how it was written. It goes from element to element, so
// that tags in a user's text are text.
static enum form field(const char *document, const char *element, char *out, size_t size) {
    const char *p = document, *end;
    size_t length = strlen(element);
    while ((p = strchr(p, '<')) != NULL) {
        const char *tag = p + 1;
        if ((p = strchr(tag, '>')) == NULL) return NONE;
        if (*tag == '/' || strncmp(tag, "xml>", 4) == 0) continue;
        const char *text = p + 1 + strspn(p + 1, " \t\r\n");
        bool cdata = strncmp(text, "<![CDATA[", 9) == 0;
        if (cdata) text += 9;
        if ((end = strstr(text, cdata ? "]]>" : "<")) == NULL) return NONE;
        p = end;
        if (strncmp(tag, element, length) != 0 || tag[length] != '>') continue;
        if ((size_t)(end - text) >= size) return NONE;
        memcpy(out, text, end - text);
        out[end - text] = 0;
        return cdata ? CDATA : PLAIN;
    }
    return NONE;
}

// Replies to text messages at once (passive reply), within four seconds. Only in XML: a component
// that is set up for JSON uses the same fields in JSON.
static void reply(void) {
    natsSubscription *sub = NULL;
    char subject[256], from[128], to[128], type[32], content[4096], document[8192];

    snprintf(subject, sizeof subject, "wechat.reply.%s.>", strchr(key, '.') + 1);
    check(natsConnection_QueueSubscribeSync(&sub, nc, subject, name), "subscribe");
    check(natsConnection_Flush(nc), "subscribe");
    printf("listening on %s\n", subject);
    for (;;) {
        natsMsg *msg = NULL;
        natsStatus s = natsSubscription_NextMsg(&msg, sub, 60000);
        if (s == NATS_TIMEOUT) continue;
        check(s, "next message");
        const char *message = natsMsg_GetData(msg);
        enum form form = field(message, "Content", content, sizeof content);
        document[0] = 0; // nothing: no reply
        if (form != NONE && field(message, "MsgType", type, sizeof type) && strcmp(type, "text") == 0 &&
            field(message, "FromUserName", from, sizeof from) && field(message, "ToUserName", to, sizeof to))
            snprintf(document, sizeof document,
                     "<xml><ToUserName>%s</ToUserName><FromUserName>%s</FromUserName><CreateTime>%lld</CreateTime>"
                     "<MsgType>text</MsgType><Content>%syou said: %s%s</Content></xml>",
                     from, to, (long long)time(NULL), form == CDATA ? "<![CDATA[" : "", content, form == CDATA ? "]]>" : "");
        check(natsConnection_PublishString(nc, natsMsg_GetReply(msg), document), "reply");
        printf("replied to %s\n", natsMsg_GetSubject(msg));
        natsMsg_Destroy(msg);
    }
}

int main(int argc, char **argv) {
    struct {
        const char *name;
        void (*run)(void);
    } commands[] = {{"token", token}, {"follow", follow}, {"report", report}, {"messages", messages}, {"reply", reply}};

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; argc == 2 && i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        open_nats();
        commands[i].run();
        kvStore_Destroy(kv);
        jsCtx_Destroy(js);
        natsConnection_Destroy(nc);
        nats_Close();
        return 0;
    }
    fail("usage", "wxtoken token|follow|report|messages|reply");
}
