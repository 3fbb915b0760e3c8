'use strict';
const crypto=require('crypto'), zlib=require('zlib');
const out=(k,v)=>console.log(k,v);
function mandel(n){let c=0;for(let y=0;y<n;y++)for(let x=0;x<n;x++){let r=2*x/n-1.5,i=2*y/n-1,a=0,b=0,k=0;while(k<50&&a*a+b*b<4){[a,b]=[a*a-b*b+r,2*a*b+i];k++}c+=k}return c}
out('mandel',mandel(150));
function sieve(n){const s=new Uint8Array(n+1);let c=0;for(let i=2;i<=n;i++)if(!s[i]){c++;for(let j=i*2;j<=n;j+=i)s[j]=1}return c}
out('sieve',sieve(500000));
let x=88172645463325252n;for(let i=0;i<20000;i++){x^=BigInt.asUintN(64,x<<13n);x^=x>>7n;x^=BigInt.asUintN(64,x<<17n)}out('bigint',x);
let f=1n;for(let i=1n;i<400n;i++)f*=i;out('factorial',crypto.createHash('sha256').update(f.toString()).digest('hex'));
const data=Buffer.alloc(300000);let s=12345;for(let i=0;i<data.length;i++){s=(Math.imul(s,1103515245)+12345)&0x7fffffff;data[i]=(s>>16)%37}
for(const h of crypto.getHashes().filter(h=>!/RSA|ssl/.test(h)).sort())try{out(h,crypto.createHash(h).update(data).digest('hex'))}catch(e){}
const def=zlib.deflateSync(data,{level:9}),br=zlib.brotliCompressSync(data.subarray(0,50000));
out('deflate',crypto.createHash('md5').update(def).digest('hex'));out('inflate',zlib.inflateSync(def).equals(data));
out('brotli',crypto.createHash('md5').update(br).digest('hex'));out('unbrotli',zlib.brotliDecompressSync(br).equals(data.subarray(0,50000)));
class V{constructor(x,y){this.x=x;this.y=y}add(o){return new V(this.x+o.x,this.y+o.y)}}
let v=new V(0,0);for(let i=0;i<1e6;i++)v=v.add(new V(i,i*0.5));out('objects',v.x+' '+v.y);
const m=new Map();for(let i=0;i<1e5;i++)m.set('k'+(i%977),(m.get('k'+(i%977))||0)+i);out('map',[...m.values()].reduce((a,b)=>a^b));
const words=[];for(let i=0;i<50000;i++)words.push(((i*7919)%50021).toString(36));words.sort();out('sort',crypto.createHash('sha1').update(words.join()).digest('hex'));
let t=0;for(let i=0;i<1e6;i++)t+=Math.sqrt(i)*((i&3)-1.5)+Math.trunc(i/7)%3+Math.fround(i/3);out('float',t);
out('trig',(()=>{let a=0;for(let i=0;i<2e5;i++)a+=Math.sin(i)*Math.cos(i/3)+Math.atan2(i,3)+Math.log1p(i);return a})());
out('regexp','the quick brown fox '.repeat(5000).match(/\b(\w+)\s+(?=brown)/g).length);
out('json',JSON.stringify(JSON.parse(JSON.stringify(words.map((w,i)=>({w,i,f:i/3}))))).length);
function poly(o){return o.a+(o.b|0)}let pp=0;for(let i=0;i<3e5;i++)pp+=poly(i%3?{a:i,b:1}:i%2?{b:2,a:i}:{a:i+0.5,c:1});out('deopt',pp);
let ev=0;for(let i=0;i<2000;i++)ev+=new Function('a','return a*'+i+'+1')(i);out('functions',ev);
// f64, i64 and SIMD through WebAssembly: (func (param i32) (result i64)) with a loop of multiply and xor.
const section=(id,...b)=>[id,b.length,...b], body=[1,1,126,66,1,33,1,3,64,32,1,66,237,220,197,251,252,222,251,202,0,126,66,13,124,33,1,32,0,65,1,107,34,0,13,0,11,32,1,11];
const wasm=new Uint8Array([0,97,115,109,1,0,0,0,...section(1,1,96,1,127,1,126),...section(3,1,0),...section(7,1,1,102,0,0),...section(10,1,body.length,...body)]);
try{const w=new WebAssembly.Instance(new WebAssembly.Module(wasm));out('wasm',w.exports.f(1000000))}catch(e){out('wasm',e.message)}
const sab=new SharedArrayBuffer(8),{Worker,isMainThread}=require('worker_threads');
(async()=>{const ws=[];for(let i=0;i<3;i++)ws.push(new Promise((r,j)=>{const w=new Worker(`const{workerData:d,parentPort:p}=require('worker_threads');const a=new Int32Array(d);for(let i=0;i<100000;i++){Atomics.add(a,0,1);Atomics.xor(a,1,i)}`,{eval:true,workerData:sab});w.on('exit',r);w.on('error',j)}));await Promise.all(ws);out('atomics',Array.from(new Int32Array(sab)).join())
let q=0;for(let i=0;i<50000;i++)q+=await Promise.resolve(i);out('await',q);})();
