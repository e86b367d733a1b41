# client.rb PORT [store|read]: dalli (binary protocol) against the server on 127.0.0.1:PORT; exits 1 at the first
# wrong answer. With SASL_USER and SASL_PASSWORD it logs in first.
require 'dalli'

def check(what, got, wanted = true)
  return if got == wanted
  warn "#{what}: got #{got.inspect[0, 200]}"
  exit 1
end

def wait_until(seconds = 120)
  ends = Time.now + seconds
  until yield
    check('waited in vain', Time.now < ends)
    sleep 0.02
  end
end

options = { socket_timeout: 120, compress: false, value_max_bytes: 16 << 20 }
if ENV['SASL_USER']
  options[:username] = ENV['SASL_USER']
  options[:password] = ENV['SASL_PASSWORD']
end
c = Dalli::Client.new("127.0.0.1:#{ARGV[0]}", options)

if ARGV[1]
  random = Random.new(2)
  500.times do |i|
    value = random.bytes(300 + random.rand(5000))
    if ARGV[1] == 'store'
      check("store #{i}", !c.set("flash-#{i}", value, nil, raw: true).nil?)
    else
      check("read #{i}", c.get("flash-#{i}", raw: true) == value)
    end
  end
  exit 0
end

check('set', c.set('a', 'one').is_a?(Integer))
check('get', c.get('a'), 'one')
check('get missing', c.get('missing'), nil)
check('add over', c.add('a', 'x') ? true : false, false)
check('add', c.add('b', 'two') ? true : false)
c.replace('missing', 'x') # the client doesn't tell
check('not replaced', c.get('missing'), nil)
check('set raw', c.set('b', 'three', nil, raw: true) ? true : false)
check('append', c.append('b', '!') ? true : false)
check('prepend', c.prepend('b', '>') ? true : false)
check('appended', c.get('b', raw: true), '>three!')
check('delete', c.delete('b') ? true : false)
check('delete again', c.delete('b') ? true : false, false)
check('types', c.set('list', [1, 'x', nil, 2.5]) && c.get('list') == [1, 'x', nil, 2.5])
check('incr makes', c.incr('n', 5, nil, 10), 10)
check('incr', c.incr('n', 5), 15)
check('decr', c.decr('n', 20), 0)
check('incr missing', c.incr('nn', 1), nil)
check('cas', c.cas('a') { |old| old + '!' } ? true : false)
check('after cas', c.get('a'), 'one!')
check('cas missing', c.cas('missing') { |_| 'x' }, nil)
wait_until { c.set('later', 'x', 1) && c.touch('later', 1000) } # again, if a second has passed in between
check('gat', c.gat('later', 1000), 'x')
check('gone', c.set('gone', 'x', 1) ? true : false)
wait_until { c.get('gone').nil? }
check('touched', c.get('later'), 'x')
check('touch missing', c.touch('missing', 5), nil)

random = Random.new(1)
many = (0...1000).to_h { |i| ["many-#{i}", random.bytes(1 + random.rand(3000))] }
many.each { |k, v| c.set(k, v, nil, raw: true) }
got = c.get_multi(many.keys + (0...50).map { |i| "never-#{i}" })
check('get_multi', got.size == 1000 && many.all? { |k, v| got[k] == v })
c.multi { many.each { |k, v| c.set(k, v.reverse, nil, raw: true) } }
check('quiet sets', many.all? { |k, v| c.get(k, raw: true) == v.reverse })

[500_000, 1_048_576, 3_000_000].each do |size|
  value = random.bytes(size)
  check("set #{size}", c.set('big', value, nil, raw: true) ? true : false)
  check("get #{size}", c.get('big', raw: true) == value)
end
stats = c.stats.values.first
check('stats', stats['curr_items'].to_i > 0 && stats['cmd_set'].to_i > 0)
check('stats settings', c.stats(:settings).values.first['maxconns'], '1024')
check('version', c.version.values.first.count('.'), 2)
c.flush_all
check('flushed', c.get('a'), nil)
check('after flush', c.set('a', 'x') && c.get('a'), 'x')
puts 'dalli: all answers as from memcached'
