package doors

import (
	"cmp"
	"context"
	"os"

	"github.com/rs/zerolog"

	"wxtoken/internal/gateway"
	"wxtoken/internal/lang"
	"wxtoken/internal/preflight"
	"wxtoken/internal/redis"
	"wxtoken/internal/services"
	"wxtoken/internal/settings"
)

// Probes check what a gateway needs beside NATS and WeChat: a folder for bodies, and Redis if it is set.
func Probes(cfg gateway.Config, shared redis.Config) []preflight.Probe {
	folder := cmp.Or(cfg.SpoolDir, os.TempDir())
	probes := []preflight.Probe{{
		Name: "spool", Works: lang.T("long bodies without a length can be stored in %s", "没有长度的大请求体可以放在 %s", folder),
		Remedy: lang.T("with %s, name a folder that the process may write into; until then calls with such a body are refused",
			"用 %s 指定进程可写的目录：在此之前，带这种请求体的调用会被拒绝", settings.Name("spool-dir")),
		Run: func(context.Context) error { return cfg.CheckSpool() },
	}}
	if cfg.ServicesFile != "" {
		probes = append(probes, preflight.Probe{
			Name: "services", Works: lang.T("%s can be read", "%s 可以读取", cfg.ServicesFile),
			Remedy: lang.T("mend the file that %s names (docs/gateway.md)", "改正 %s 指定的文件，写法见 docs/gateway.zh-CN.md", settings.Name("services-file")),
			Run: func(context.Context) error {
				_, err := services.Open(cfg.ServicesFile, zerolog.Nop())
				return err
			},
		})
	}
	if shared.RedisURL.IsZero() {
		return probes
	}
	return append(probes, preflight.Probe{
		Name: "redis", Works: lang.T("%s takes tokens", "%s 可以写入令牌", shared.Server()),
		Remedy: lang.T("check %s, Redis itself, and the rights of the user (docs/redis.md)",
			"检查 %s、Redis 本身，以及 docs/redis.zh-CN.md 里这个用户要有的权限", settings.Name("redis-url")),
		Run: shared.Check,
	})
}
