package wxtoken_test
import ("testing";"time";"fmt";"wxtoken")
func TestZZ(t *testing.T){
	p := newPlatform(t)
	p.put(shop, 1); p.put(hotel,1)
	nc := p.srv.Connect()
	_ = nc
	kv, _ := p.js.KeyValue(t.Context(), "tokens")
	w, err := kv.WatchAll(t.Context())
	if err!=nil {t.Fatal(err)}
	for e := range w.Updates() { if e==nil {break} }
	p.srv.Restart()
	t0:=time.Now()
	p.put(shop, 2)
	e := <-w.Updates()
	t.Log("KeyWatcher after restart:", time.Since(t0), e.Revision())
	// new bucket
	p.js.DeleteStream(t.Context(), "KV_tokens"); p.createBucket()
	t0=time.Now()
	p.put(shop, 2)
	select { case e, ok := <-w.Updates(): t.Log("KeyWatcher new bucket", e, ok, time.Since(t0)); case <-time.After(25*time.Second): t.Log("KeyWatcher new bucket: nothing in 25s") }
	w.Stop()
}
func TestZY(t *testing.T){
	p := newPlatform(t)
	var keys []wxtoken.Key
	for i := range 1000 { k:=wxtoken.AuthorizerKey("wxc", fmt.Sprintf("wxa%d",i)); keys=append(keys,k); p.put(k,1) }
	t0:=time.Now()
	c := p.client(wxtoken.Config{Keys: keys})
	t.Log("1000 keys:", time.Since(t0))
	p.srv.Restart()
	t0=time.Now()
	p.put(keys[500],2)
	eventually(t,"x",has(c,keys[500],2))
	t.Log("one after restart", time.Since(t0))
	eventually(t,"x",func() bool {return c.Stats().Live})
	t.Log("live after restart", time.Since(t0), c.Stats())
}
