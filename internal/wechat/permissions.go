package wechat

import (
	"slices"

	"wxtoken/internal/lang"
)

// AccountKind says for which kind of account a permission set is.
type AccountKind int

// The kinds.
const (
	OfficialAccount AccountKind = iota + 1 // 公众号: subscription and service accounts
	MiniProgram                            // 小程序
	Channels                               // 视频号, and its shop
)

// PermissionSet is a permission set (权限集): what a merchant grants to a component, and what WeChat
// lists by number in func_info and takes in category_id_list.
type PermissionSet struct {
	ID   int
	Kind AccountKind // 0 if WeChat's pages don't say
	Name lang.Text
}

// permissionSets are the permission sets with known names. WeChat has no API for the names, and its
// pages lag behind its console, so each row follows the newest source that has it:
//
//   - 1 to 113 of official accounts: the table of page "offical_account_authority"; 17 to 84 of mini programs: that of page
//     "miniprogram_authority" (both below /doc/oplatform/Third-party_Platforms/2.0/product/), by their newest stored copies.
//   - 14, 16, 20 and 21 are in older copies only, as a list of func_info on page "func_info".
//   - 35, 36 and 57 left those tables later; they and the rows above 84, beyond the stored part of both pages, are as the
//     SDK JeffreySu/WeiXinMPSDK has them, which copies WeChat's tables (enum FuncscopeCategory, 2024).
//   - 171 to 174: page "message_push", as those that may trigger debug_demo; 185: an answer of WeChat's staff
//     (community thread 000e801268c3f8478ca2bdb7a6bc00).
//
// The Chinese names are WeChat's. The English ones are ours: WeChat's English pages are machine
// translations.
var permissionSets = []PermissionSet{
	{1, OfficialAccount, lang.T("messages", "消息管理")},
	{2, OfficialAccount, lang.T("followers", "用户管理")},
	{3, OfficialAccount, lang.T("account services", "账号服务")},
	{4, OfficialAccount, lang.T("web pages", "网页服务")},
	{5, OfficialAccount, lang.T("WeChat store", "微信小店")},
	{6, OfficialAccount, lang.T("customer service staff", "微信多客服")},
	{7, OfficialAccount, lang.T("broadcasts and notifications", "群发与通知")},
	{8, OfficialAccount, lang.T("cards and coupons", "微信卡券")},
	{9, OfficialAccount, lang.T("WeChat scan", "微信扫一扫")},
	{10, OfficialAccount, lang.T("Wi-Fi via WeChat", "微信连WIFI")},
	{11, OfficialAccount, lang.T("media library", "素材管理")},
	{12, OfficialAccount, lang.T("shake nearby", "微信摇周边")},
	{13, OfficialAccount, lang.T("branches", "微信门店")},
	{14, OfficialAccount, lang.T("WeChat Pay", "微信支付")},
	{15, OfficialAccount, lang.T("menus", "菜单管理")},
	{16, OfficialAccount, lang.T("verification status", "获取认证状态及信息")},
	{17, MiniProgram, lang.T("mini program codes", "获取小程序码")},
	{18, MiniProgram, lang.T("development and data analysis", "小程序开发与数据分析")},
	{19, MiniProgram, lang.T("customer service messages", "小程序客服管理")},
	{20, MiniProgram, lang.T("login via WeChat", "微信登录")},
	{21, MiniProgram, lang.T("data analysis", "数据分析")},
	{22, OfficialAccount, lang.T("city services", "城市服务")},
	{23, OfficialAccount, lang.T("advertisements", "广告管理")},
	{24, OfficialAccount, lang.T("Open Platform account", "开放平台账号管理")},
	{25, MiniProgram, lang.T("Open Platform account", "开放平台账号管理")},
	{26, OfficialAccount, lang.T("electronic invoices", "微信电子发票")},
	{27, OfficialAccount, lang.T("quick registration of mini programs", "快速注册小程序")},
	{30, MiniProgram, lang.T("basic information", "小程序基本信息管理")},
	{31, MiniProgram, lang.T("check of the verified name", "小程序认证名称检测")},
	{33, OfficialAccount, lang.T("linked mini programs", "小程序关联管理")},
	{34, OfficialAccount, lang.T("product library", "微信商品库管理")},
	{35, OfficialAccount, lang.T("calories", "微信卡路里")},
	{36, MiniProgram, lang.T("calories", "微信卡路里管理")},
	{37, MiniProgram, lang.T("nearby mini programs", "附近的小程序管理")},
	{40, MiniProgram, lang.T("plug-ins", "小程序插件管理")},
	{41, MiniProgram, lang.T("recommended goods", "好物圈管理")},
	{44, OfficialAccount, lang.T("recommended goods", "好物圈")},
	{45, MiniProgram, lang.T("logistics", "微信物流服务")},
	{46, OfficialAccount, lang.T("one code for each item", "微信一物一码")},
	{47, OfficialAccount, lang.T("electronic fiscal receipts", "微信财政电子票据")},
	{48, MiniProgram, lang.T("electronic fiscal receipts", "微信财政电子票据管理")},
	{49, MiniProgram, lang.T("cloud development", "小程序云开发管理")},
	{51, MiniProgram, lang.T("instant delivery", "小程序即时配送")},
	{52, MiniProgram, lang.T("live streaming", "小程序直播管理")},
	{54, OfficialAccount, lang.T("service account conversations", "服务号对话管理")},
	{57, MiniProgram, lang.T("pages for search", "页面推送")},
	{65, MiniProgram, lang.T("advertisements", "小程序广告管理")},
	{66, OfficialAccount, lang.T("service market", "微信服务市场管理")},
	{67, MiniProgram, lang.T("service market", "微信服务市场管理")},
	{70, MiniProgram, lang.T("standard shop: goods", "标准版交易组件商品管理")},
	{71, MiniProgram, lang.T("standard shop: orders, logistics, after-sales", "标准版交易组件订单物流与售后管理")},
	{73, MiniProgram, lang.T("standard shop: opening", "标准版交易组件接入")},
	{76, MiniProgram, lang.T("violations and complaints", "小程序违规与交易投诉管理")},
	{81, MiniProgram, lang.T("quick verification of trial mini programs", "试用小程序快速认证")},
	{84, MiniProgram, lang.T("standard shop: coupons", "标准版交易组件优惠券管理")},
	{85, MiniProgram, lang.T("custom shop", "自定义版交易组件管理")},
	{86, MiniProgram, lang.T("shop decoration", "小商店装修")},
	{88, MiniProgram, lang.T("links to mini programs", "获取小程序链接")},
	{89, OfficialAccount, lang.T("subscription notifications", "服务号订阅通知")},
	{93, MiniProgram, lang.T("mini program alliance", "小程序联盟")},
	{99, MiniProgram, lang.T("cloud development: text messages", "云开发短信服务")},
	{102, MiniProgram, lang.T("cloud development: WeChat Pay", "云开发微信支付")},
	{104, MiniProgram, lang.T("standard shop: funds", "标准版组件资金链路")},
	{105, MiniProgram, lang.T("city services", "城市服务")},
	{107, MiniProgram, lang.T("e-commerce connector", "连接器电商场景接入")},
	{112, 0, lang.T("red packet covers", "红包封面管理")},
	{113, OfficialAccount, lang.T("medical assistant", "就医助手")},
	{116, MiniProgram, lang.T("custom shop: data", "获取自定义版交易组件数据")},
	{117, MiniProgram, lang.T("image processing", "小程序图像处理")},
	{118, MiniProgram, lang.T("hardware", "硬件服务")},
	{119, MiniProgram, lang.T("payment management", "小程序支付管理服务")},
	{120, MiniProgram, lang.T("shopping orders", "小程序购物订单")},
	{121, OfficialAccount, lang.T("shopping orders", "公众号购物订单")},
	{129, Channels, lang.T("Channels shop: goods", "视频号小店商品管理")},
	{130, Channels, lang.T("Channels shop: logistics", "视频号小店物流管理")},
	{131, Channels, lang.T("Channels shop: orders and after-sales", "视频号小店订单与售后管理")},
	{132, Channels, lang.T("Channels shop: coupons", "视频号小店优惠券管理")},
	{133, Channels, lang.T("Channels showcase", "视频号商品橱窗管理")},
	{135, 0, lang.T("operation of advertising space", "流量主代运营")},
	{138, Channels, lang.T("Channels shop: funds", "视频号小店资金管理")},
	{139, MiniProgram, lang.T("return shipping insurance", "小程序运费险")},
	{140, MiniProgram, lang.T("promoters", "小程序推广员")},
	{141, Channels, lang.T("Channels shop: alliance", "视频号小店优选联盟")},
	{142, MiniProgram, lang.T("shipping management", "小程序发货管理服务")},
	{144, 0, lang.T("verification of students", "微信学生身份验证")},
	{151, MiniProgram, lang.T("trade protection", "小程序交易保障")},
	{153, MiniProgram, lang.T("short drama resources", "微短剧小程序资源管理")},
	{156, MiniProgram, lang.T("ICP filing", "小程序备案服务")},
	{157, MiniProgram, lang.T("virtual payment", "小程序虚拟支付管理")},
	{159, Channels, lang.T("Channels shop: waybills", "视频号电子面单管理")},
	{161, 0, lang.T("WeChat customer service", "微信客服管理")},
	{171, MiniProgram, lang.T("message push test: mini programs", "消息推送调试（小程序）")},
	{172, OfficialAccount, lang.T("message push test: official accounts", "消息推送调试（公众号）")},
	{173, 0, lang.T("message push test: mini games", "消息推送调试（小游戏）")},
	{174, Channels, lang.T("message push test: Channels", "消息推送调试（视频号）")},
	{185, MiniProgram, lang.T("members of the WeChat store", "小程序管理微信小店会员")},
}

// NamePermissionSet returns the permission set of an id. One that is not in the table is named by
// its number: WeChat adds some every year.
func NamePermissionSet(id int) PermissionSet {
	if at := slices.IndexFunc(permissionSets, func(s PermissionSet) bool { return s.ID == id }); at >= 0 {
		return permissionSets[at]
	}
	return PermissionSet{ID: id, Name: lang.T("permission set %d", "权限集 %d", id)}
}
