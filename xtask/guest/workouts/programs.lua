local bit = require "bit"; local ffi = require "ffi"
local function fannkuch(n)
  local p,q,s,sign,maxf,sum={}, {}, {},1,0,0
  for i=1,n do p[i]=i;q[i]=i;s[i]=i end
  repeat
    local q0=p[1]
    if q0~=1 then
      for i=2,n do q[i]=p[i] end
      local flips=1
      while true do
        local qq=q[q0]
        if qq==1 then sum=sum+sign*flips; if flips>maxf then maxf=flips end; break end
        q[q0]=q0
        if q0>=4 then local i,j=2,q0-1 repeat q[i],q[j]=q[j],q[i];i=i+1;j=j-1 until i>=j end
        q0=qq;flips=flips+1
      end
    end
    if sign==1 then p[1],p[2]=p[2],p[1];sign=-1
    else p[2],p[3]=p[3],p[2];sign=1
      for i=3,n do
        local sx=s[i]
        if sx~=1 then s[i]=sx-1;break end
        if i==n then return sum,maxf end
        s[i]=i
        local t=p[1]; for j=1,i do p[j]=p[j+1] end; p[i+1]=t
      end
    end
  until false
end
print(fannkuch(8))
local function A(i,j) local ij=i+j-1 return 1.0/(ij*(ij-1)*0.5+i) end
local function Av(x,y,N) for i=1,N do local a=0 for j=1,N do a=a+x[j]*A(i,j) end y[i]=a end end
local function Atv(x,y,N) for i=1,N do local a=0 for j=1,N do a=a+x[j]*A(j,i) end y[i]=a end end
local N=100; local u,v,t={}, {}, {}
for i=1,N do u[i]=1 end
for i=1,10 do Av(u,t,N);Atv(t,v,N);Av(v,t,N);Atv(t,u,N) end
local vBv,vv=0,0; for i=1,N do local ui,vi=u[i],v[i]; vBv=vBv+ui*vi; vv=vv+vi*vi end
print(string.format("%0.9f %a", math.sqrt(vBv/vv), math.sqrt(vBv/vv)))
local x=0x12345678 for i=1,2000000 do x=bit.bxor(x,bit.lshift(x,13)) x=bit.bxor(x,bit.rshift(x,17)) x=bit.bxor(x,bit.lshift(x,5)) end print(x)
local a=ffi.new("uint64_t[1024]") for r=1,100 do for i=0,1023 do a[i]=a[i]*6364136223846793005ULL+i end end
local s=0ULL for i=0,1023 do s=s+a[i] end print(s)
local d=ffi.new("struct {int8_t a;uint16_t b;float c;double d;int64_t e;}")
for i=1,200000 do d.a=d.a+i d.b=d.b+i*3 d.c=d.c*0.5+i d.d=d.d*0.25+i/3 d.e=d.e+i*7LL end
print(d.a,d.b,string.format("%a %a",d.c,d.d),d.e)
local parts={} for i=1,20000 do parts[#parts+1]=string.format("%d:%x:%g",i,i*i,i/7) end
local all=table.concat(parts,",") print(#all, select(2,all:gsub("7","7")))
local function fib(n) if n<2 then return n end return fib(n-1)+fib(n-2) end print(fib(27))
local co=coroutine.wrap(function() for i=1,1e5 do coroutine.yield(i) end return -1 end) local c=0 for i=1,1e5 do c=c+co() end print(c)
local m=0 for i=1,1e5 do m=m+math.sin(i)*math.exp(-i/1e5)+math.fmod(i,7)+math.floor(i/3)%5+math.ldexp(i,-3) end print(string.format("%.10g",m))
-- Code made again and again.
local n=0 for i=1,300 do local f=loadstring("local a=... for i=1,200 do a=(a*"..i.."+i)%1000003 end return a") n=n+f(i) end print(n)
collectgarbage() print(pcall(error,"x"))
