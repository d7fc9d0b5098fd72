<?php

// EasyWeChat against the gateway: http.base_uri.

require getenv('EASYWECHAT_AUTOLOAD');

use EasyWeChat\MiniApp\Application as MiniApp;
use EasyWeChat\OfficialAccount\Application;

[, $host, $appid, $secret] = $argv;
$app = new Application(['app_id' => $appid, 'secret' => $secret, 'http' => ['base_uri' => $host]]);
$program = new MiniApp(['app_id' => $appid, 'secret' => $secret, 'http' => ['base_uri' => $host]]);
$client = $app->getClient();

$steps = [
    'token' => fn () => $app->getAccessToken()->getToken(),
    'users' => fn () => $client->get('/cgi-bin/user/get')->toArray()['data']['openid'][0],
    'menu' => fn () => $client->postJson('/cgi-bin/menu/create', [
        'button' => [['type' => 'click', 'name' => '今日歌曲', 'key' => 'V1001']],
    ])->toArray()['errmsg'],
    'session' => fn ($code) => $program->getUtils()->codeToSession($code)['openid'],
    'upload' => fn ($path) => $client->withFile($path, 'media')->post('/cgi-bin/media/upload?type=image')->toArray()['media_id'],
    'download' => fn ($id) => hash('sha256', $client->get('/cgi-bin/media/get', ['media_id' => $id])->getContent()),
];

while (($line = fgets(STDIN)) !== false) {
    $args = explode(' ', trim($line));
    try {
        $out = $steps[array_shift($args)](...$args);
        echo "ok\t$out\n";
    } catch (Throwable $e) {
        echo "failed\t", get_class($e), ' ', strtr($e->getMessage(), "\n", ' '), "\n";
    }
}
