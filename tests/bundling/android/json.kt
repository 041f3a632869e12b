package org.json

class JSONArray {
    fun length(): Int = TODO()
    fun getInt(index: Int): Int = TODO("$index")
    fun getDouble(index: Int): Double = TODO("$index")
    fun getString(index: Int): String = TODO("$index")
}

class JSONObject(text: String) {
    val text = text
    fun getJSONObject(name: String): JSONObject = TODO(name)
    fun getJSONArray(name: String): JSONArray = TODO(name)
    fun getString(name: String): String = TODO(name)
}
