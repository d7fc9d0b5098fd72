package wechat_test

import (
	"testing"

	"wxtoken/internal/lang"
	"wxtoken/internal/wechat"
)

// TestPermissionSets looks up names that WeChat's pages state, and that no id below 400 lacks what a page shows of it.
func TestPermissionSets(t *testing.T) {
	t.Parallel()
	for _, want := range []wechat.PermissionSet{
		{ID: 1, Kind: wechat.OfficialAccount, Name: lang.Text{EN: "messages", ZH: "消息管理"}},
		{ID: 18, Kind: wechat.MiniProgram, Name: lang.Text{EN: "development and data analysis", ZH: "小程序开发与数据分析"}},
		{ID: 89, Kind: wechat.OfficialAccount, Name: lang.Text{EN: "subscription notifications", ZH: "服务号订阅通知"}},
		{ID: 28, Name: lang.Text{EN: "permission set 28", ZH: "权限集 28"}},
		{ID: 7777, Name: lang.Text{EN: "permission set 7777", ZH: "权限集 7777"}},
	} {
		if got := wechat.NamePermissionSet(want.ID); got != want {
			t.Errorf("%d is %+v, want %+v", want.ID, got, want)
		}
	}
	names := map[lang.Text]int{}
	for id := range 400 {
		set := wechat.NamePermissionSet(id)
		if set.ID != id || set.Name.EN == "" || set.Name.ZH == "" {
			t.Errorf("%d is %+v", id, set)
		}
		if other, twice := names[set.Name]; twice && wechat.NamePermissionSet(other).Kind == set.Kind {
			t.Errorf("%d and %d are both %q", other, id, set.Name.ZH)
		}
		names[set.Name] = id
	}
}
