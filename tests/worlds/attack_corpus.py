"""Valid input of everything that reads what others wrote, and pieces that have broken readers of it."""

from pathlib import Path

_DEMO = Path(__file__).parents[2] / "deploy/demo"

_CHAT = b"""{"model":"m","stream":true,"max_tokens":10,"messages":[{"role":"system","content":"be kind"},
{"role":"user","content":[{"type":"text","text":"what is this?"},{"type":"image_url","image_url":{"url":"data:,x"}},
{"type":"video_url","video_url":{"url":"http://v"}},{"type":"input_audio","input_audio":{"data":"aa","format":"wav"}}]},
{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
{"role":"tool","tool_call_id":"c1","content":"4"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}"""
_MESSAGES = b"""{"model":"m","max_tokens":10,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":
[{"type":"text","text":"a"},{"type":"image","source":{"type":"base64","data":"aa"}},{"type":"tool_result","tool_use_id":"t",
"content":[{"type":"text","text":"r"}]}]},{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"n","input":{}}]}],
"tools":[{"name":"n","input_schema":{"type":"object"}}]}"""
BODIES: dict[str, list[bytes]] = {
    "/v1/chat/completions": [_CHAT],
    "/v1/completions": [
        b'{"model":"m","prompt":"hello \\u00e4\\ud83d\\ude00 you"}',
        b'{"prompt":["a","b",[1,2,3]],"model":"m","n":2}',
        b'{"model":"m","prompt":[1,2,3,4,5]}',
    ],
    "/v1/embeddings": [b'{"model":"m","input":["a","b"]}', b'{"model":"m","input":[[1,2],[3]]}'],
    "/v1/responses": [
        (
            b'{"model":"m","instructions":"i","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},'
            b'{"type":"function_call_output","call_id":"c","output":"4"}],"previous_response_id":"r1"}'
        ),
        b'{"model":"m","input":"a"}',
    ],
    "/v1/conversations": [b'{"items":[{"type":"message","role":"user","content":"a"}],"metadata":{}}'],
    "/v1/messages": [_MESSAGES],
    "/v1/messages/count_tokens": [_MESSAGES],
    "/inference/v1/generate": [b'{"model":"m","token_ids":[1,2,3],"sampling_params":{"max_tokens":3}}'],
}
_USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}'
RESPONSES = [
    b'{"id":"x","model":"m","choices":[{"message":{"content":"a"}}],%s}' % _USAGE,
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],%s}\n\ndata: [DONE]\n\n' % _USAGE,
    (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":4}}\n\n'
    ),
    b'data: {"error":{"message":"out of memory","code":500}}\n\n',
]
METRICS = [
    (
        b'vllm:num_requests_waiting{engine="0",model_name="m"} 3.0\nvllm:num_requests_running{engine="0"} 17.0\n'
        b'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="b, a",waiting_lora_adapters="c"} 1.8e+09\n'
        b'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="27649"} 1.0\n'
    ),
    (
        b'# TYPE sglang:num_queue_reqs gauge\nsglang:num_queue_reqs{dp_rank="0",tp_rank="1"} 2\n'
        b'sglang:token_usage{dp_rank="0"} 0.5\nsglang:num_running_reqs{dp_rank="1"} 4\n'
    ),
]
_POOL = b"""apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama, namespace: ns}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: llama-epp, port: {number: 9002}, failureMode: FailOpen}
"""
MANIFESTS = [
    *(path.read_bytes() for path in sorted(_DEMO.rglob("*.yaml"))),
    _POOL,
    (
        b'{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"app":'
        b'"llama"}},"status":{"podIP":"10.0.0.1","conditions":[{"type":"Ready","status":"True"}]}}]}'
    ),
    b"a: &a [1, 2]\nb: *a\nc: {<<: {x: 1}}\nd: |\n  text\n",
]
ENDPOINTS = [
    b"endpoints:\n- name: a\n  address: 10.0.0.1\n  port: '8000'\n  labels: {app: m}\n- address: '::1'\n  port: 1\n"
]
CONFIGS = [
    b"""apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- {type: prefix-cache-scorer, parameters: {blockSize: 64, maxPrefixBlocksToMatch: 256}}
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins: [{pluginRef: queue-scorer, weight: 2}, {pluginRef: prefix-cache-scorer}, {pluginRef: max-score-picker}]
"""
]
QUERIES = [
    b"/decisions?request=a&model=m&endpoint=10.0.0.1&status=200&since=2026-01-01T00:00&until=now&pool=default/x",
    b"/decisions/12",
    b"/log?before=100&class=control",
    b"/log/5",
    b"/pools/default/x?at=12",
    b"/routes/default/llm-route/weights?rule=0",
    b"/api/v1/decisions?model=m&limit=20",
    b"/api/v1/log?after=3",
    b"/search?q=abc",
]
PIECES = [
    b"\0",
    b"\xff",
    b"\xc3\xa4",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"\\",
    b"[",
    b"{",
    b"]",
    b"}",
    b"[[[[[[[[",
    b'{"a":',
    b"null",
    b"true",
    b"NaN",
    b"-0",
    b"1e999",
    b"9" * 20,
    b"9" * 5000,
    b"0x1f",
    b"\xd9\xa3",
    b"\xc2\xb2",
    b"\n",
    b"\r\n",
    b"\t",
    b" " * 100,
    b"data: ",
    b",,",
    b'"model":"m",',
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object:os.system ",
    b"? ",
    b"- - - ",
    b"---\n",
    b"%",
    b"%00",
    b"&",
    b"<script>",
    b"..",
    b"/",
    b"+Inf",
    b'{le="',
    b"#",
]
