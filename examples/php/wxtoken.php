<?php
// What a service does with wxtoken's gateway, over HTTP, with only PHP. README.md says how to run it.
declare(strict_types=1);

// Without variables: the gateway, its service and the account of wxtoken --sim.
define('GATEWAY', rtrim(getenv('GATEWAY_URL') ?: 'http://127.0.0.1:8092', '/'));
define('SERVICE_KEY', getenv('GATEWAY_KEY') ?: 'demo-key');
define('ACCOUNT', getenv('WXTOKEN_KEY') ?: 'authorizer.wxc0ffee0000000001.wxa000000000000001');

// ask makes a request, and returns status, ETag and body. Status 0: no answer.
function ask(string $path, array $headers = [], ?string $body = null): array
{
    $context = stream_context_create(['http' => [
        'method' => $body === null ? 'GET' : 'POST',
        'header' => $headers,
        'content' => $body ?? '',
        'timeout' => 75.0, // longer than wait=60
        'ignore_errors' => true, // the body of a fault says what is wrong
    ]]);
    $answer = @file_get_contents(GATEWAY . $path, false, $context);
    if ($answer === false) {
        return [0, '', 'no answer from ' . GATEWAY];
    }
    $etag = '';
    foreach ($http_response_header as $line) {
        if (stripos($line, 'ETag:') === 0) {
            $etag = trim(substr($line, 5));
        }
    }
    return [(int) explode(' ', $http_response_header[0])[1], $etag, $answer];
}

function fault(int $status, string $body): string
{
    return trim($status === 0 ? $body : "$status $body");
}

// v1 asks the gateway's own side.
function v1(string $path, array $headers = [], ?array $question = null): array
{
    $headers[] = 'Authorization: Bearer ' . SERVICE_KEY;
    $headers[] = 'Content-Type: application/json';
    return ask('/v1/tokens/' . ACCOUNT . $path, $headers, $question === null ? null : json_encode($question));
}

// read gets the current token.
function read(): array
{
    [$status, , $body] = v1('');
    return $status === 200 ? json_decode($body, true) : throw new RuntimeException(fault($status, $body));
}

// show prints what may be logged. access_token is what goes into access_token=.
function show(array $token): void
{
    $digest = substr(hash('sha256', $token['access_token']), 0, 16);
    echo "{$token['key']} generation={$token['generation']} expires_at={$token['expires_at']} sha256=$digest\n";
}

// Keeps the token in memory: for a long-running process. The gateway answers when there is a token other than that
// of the ETag, or after 60 s.
function follow(): never
{
    $known = '';
    while (true) {
        [$status, $etag, $body] = v1('?wait=60', $known === '' ? [] : ["If-None-Match: $known"]);
        if ($status === 200) {
            $known = $etag;
            show(json_decode($body, true));
        } elseif ($status === 404 && $known !== '') {
            $known = '';
            echo ACCOUNT . " was cancelled\n";
        } elseif ($status !== 304) { // 404: there is none yet; 503: NATS is away
            fwrite(STDERR, fault($status, $body) . "\n");
            sleep(5);
        }
    }
}

// WeChat answered 40001, 40014 or 42001 to a call that did not go through the gateway (right `real`): report the token,
// and repeat the call with the next one, which is the answer.
function report(): void
{
    [$status, , $body] = v1('/refused', [], ['generation' => read()['generation']]);
    if ($status !== 200) { // 409: the token is too young to be the reason
        throw new RuntimeException(fault($status, $body));
    }
    show(json_decode($body, true));
}

// Calls WeChat the way that any SDK does: the gateway is its host, and the service's key its secret. A token is valid for
// two hours, whatever happens to WeChat's.
function call(): void
{
    [, $component, $appid] = explode('.', ACCOUNT);
    $answer = wechat('/cgi-bin/token', ['grant_type' => 'client_credential', 'appid' => "$component/$appid", 'secret' => SERVICE_KEY]);
    $openid = getenv('OPENID') ?: 'oSimUser';
    $user = wechat('/cgi-bin/user/info', ['access_token' => $answer['access_token'], 'openid' => $openid, 'lang' => 'zh_CN']);
    echo "user {$user['openid']} subscribe={$user['subscribe']}\n";
}

function wechat(string $path, array $query): array
{
    [$status, , $body] = ask($path . '?' . http_build_query($query));
    $answer = json_decode($body, true);
    if (!is_array($answer) || ($answer['errcode'] ?? 0) !== 0) {
        throw new RuntimeException("$path: " . fault($status, $body));
    }
    return $answer;
}

// Receives the account's messages and events as a webhook, in PHP's own web server. It runs this file for each request.
function messages(): void
{
    $listen = getenv('WEBHOOK_LISTEN') ?: '127.0.0.1:9000';
    secret();
    echo "listening on $listen\n";
    passthru(escapeshellarg(PHP_BINARY) . ' -S ' . escapeshellarg($listen) . ' ' . escapeshellarg(__FILE__), $code);
    exit($code);
}

function secret(): string
{
    $secret = base64_decode(preg_replace('/^whsec_/', '', getenv('WEBHOOK_SECRET') ?: ''), true);
    return $secret ?: throw new RuntimeException('WEBHOOK_SECRET: want the secret of the webhook, whsec_...');
}

// receive answers one request: 200 says that the message is done, so do the work first, or store it. Where
// the gateway waits for a passive reply, the answer is that.
function receive(): void
{
    $body = file_get_contents('php://input');
    if (!signed($body)) {
        http_response_code(401);
        return;
    }
    $header = fn (string $name): string => $_SERVER['HTTP_' . $name] ?? '';
    error_log("{$header('WXTOKEN_COMPONENT')}.{$header('WXTOKEN_APPID')}.{$header('WXTOKEN_MSGTYPE')} "
        . "{$header('WEBHOOK_ID')} " . strlen($body) . ' bytes');
    if ($header('WXTOKEN_REPLY') === 'wanted') {
        echo answer($body);
    }
}

function signed(string $body): bool
{
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $at = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    $want = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$at.$body", secret(), true));
    $signed = false;
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) { // two while the secret is changed
        $signed = hash_equals($want, $signature) || $signed;
    }
    return $signed && ctype_digit($at) && abs(time() - (int) $at) < 300;
}

// answer is the passive reply in the form of the message; '': none.
function answer(string $document): string
{
    $json = str_starts_with($document, '{');
    $message = $json ? json_decode($document, true) : parse($document);
    if (($message['MsgType'] ?? '') !== 'text' || !isset($message['FromUserName'], $message['ToUserName'], $message['Content'])) {
        return ''; // users write anything: docs/contract.md, "Odd documents"
    }
    $reply = ['ToUserName' => $message['FromUserName'], 'FromUserName' => $message['ToUserName'], 'CreateTime' => time(),
        'MsgType' => 'text', 'Content' => 'you said: ' . $message['Content']];
    if ($json) {
        return json_encode($reply, JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE);
    }
    $xml = '';
    foreach ($reply as $name => $value) {
        $xml .= "<$name><![CDATA[" . str_replace(']]>', ']]]]><![CDATA[>', (string) $value) . "]]></$name>";
    }
    return "<xml>$xml</xml>";
}

// parse goes from element to element, so that tags in a user's text are text. PHP's XML extensions are packages of their
// own.
function parse(string $document): array
{
    preg_match_all('/<(\w+)>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*?))\s*<\/\1>/s', $document, $elements, PREG_SET_ORDER);
    $fields = [];
    foreach ($elements as $element) {
        $fields[$element[1]] = isset($element[3]) ? html_entity_decode($element[3], ENT_QUOTES | ENT_XML1) : $element[2];
    }
    return $fields;
}

if (PHP_SAPI !== 'cli') {
    receive();
    return;
}
try {
    match ($argv[1] ?? '') {
        'token' => show(read()),
        'follow' => follow(),
        'report' => report(),
        'call' => call(),
        'messages' => messages(),
        default => throw new RuntimeException("usage: php $argv[0] token|follow|report|call|messages"),
    };
} catch (RuntimeException $e) {
    fwrite(STDERR, $e->getMessage() . "\n");
    exit(1);
}
