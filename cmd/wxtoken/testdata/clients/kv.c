// Reads the bucket tokens with libnats, told nothing but the URL: kv <url> <key>.
// A line for each step: its name, "ok" or "refused", what came.
#include <nats/nats.h>
#include <stdio.h>

static void step(const char *name, natsStatus s, const char *value) {
    if (s == NATS_OK) printf("%s\tok\t%s\n", name, value);
    else printf("%s\trefused\t%s\n", name, natsStatus_GetText(s));
    fflush(stdout);
}

// entry ends a step that brings an entry.
static void entry(const char *name, natsStatus s, kvEntry *e) {
    step(name, s, s == NATS_OK ? kvEntry_ValueString(e) : "");
    kvEntry_Destroy(e);
}

int main(int argc, char **argv) {
    natsConnection *nc = NULL;
    jsCtx *js = NULL;
    jsOptions options;
    kvStore *kv = NULL;
    kvEntry *e = NULL;
    kvWatcher *w = NULL;
    kvKeysList keys;
    kvEntryList list;
    uint64_t revision = 0;
    natsStatus s;

    if (argc != 3) return 2;
    jsOptions_Init(&options);
    options.Wait = 60000;
    s = natsConnection_ConnectTo(&nc, argv[1]);
    if (s == NATS_OK) s = natsConnection_JetStream(&js, nc, &options);
    if (s == NATS_OK) s = js_KeyValue(&kv, js, "tokens");
    if (s != NATS_OK) {
        step("open", s, "");
        return 1;
    }
    s = kvStore_Get(&e, kv, argv[2]);
    if (s == NATS_OK) revision = kvEntry_Revision(e);
    entry("get", s, e);
    e = NULL;
    s = kvStore_GetRevision(&e, kv, argv[2], revision);
    entry("revision", s, e);
    e = NULL;
    s = kvStore_Keys(&keys, kv, NULL);
    step("keys", s, s == NATS_OK ? keys.Keys[0] : "");
    if (s == NATS_OK) kvKeysList_Destroy(&keys);
    s = kvStore_History(&list, kv, argv[2], NULL);
    step("history", s, s == NATS_OK ? kvEntry_ValueString(list.Entries[0]) : "");
    if (s == NATS_OK) kvEntryList_Destroy(&list);
    step("put", kvStore_PutString(&revision, kv, argv[2], "mine"), "");
    step("delete", kvStore_Delete(kv, argv[2]), "");
    s = kvStore_Watch(&w, kv, argv[2], NULL);
    if (s == NATS_OK) s = kvWatcher_Next(&e, w, 60000);
    entry("watch", s, e);
    e = NULL;
    if (w == NULL) return 1;
    kvWatcher_Next(&e, w, 60000); // none: that was all there is now
    s = kvWatcher_Next(&e, w, 60000);
    entry("next", s, e);
    kvWatcher_Destroy(w);
    kvStore_Destroy(kv);
    jsCtx_Destroy(js);
    natsConnection_Destroy(nc);
    nats_Close();
    return 0;
}
